"""Saves by time, in addition to those by number of updates."""

import time
from collections.abc import Callable

import jax

from scotd_jax.distributed import hosts


class SaveTimer:
    """Decides whether the last checkpoint is too old.

    Args:
      minutes: age at which a new checkpoint is due; 0 is never.
      check_every: with several processes, the number of updates between two readings of the primary process's clock,
        for which all processes wait.
      clock: returns the time in seconds.
    """

    def __init__(self, minutes: float, check_every: int, clock: Callable[[], float] = time.monotonic):
        self._seconds, self._check_every, self._clock = 60 * minutes, check_every, clock
        self.restart()

    def restart(self) -> None:
        """Starts again, after a save."""
        self._saved = self._clock()

    def is_due(self, step: int) -> bool:
        """Returns whether to save after this update, the same on all processes."""
        if not self._seconds or (jax.process_count() > 1 and step % self._check_every):
            return False
        return hosts.on_primary(lambda: self._clock() - self._saved >= self._seconds)
