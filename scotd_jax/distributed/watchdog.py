"""Time limits on waits for devices and for other processes, which JAX would wait for forever.

A process that waits longer prints the stacks of its threads and ends with the status of a preempted run, on which the
launchers start again: everything up to the last checkpoint is saved. A process that dies is no matter of this module:
JAX ends the others within two minutes.
"""

import contextlib
import faulthandler
import os
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

import jax

HUNG = 143  # exit status, as after SIGTERM (running.PREEMPTED): the same command resumes
# Far above the slowest updates, which take seconds. Compilations are not part of an update.
UPDATE_MINUTES = 30.0
# Processes finish their shares of the questions at different times, and wait while the first one merges them.
BARRIER_MINUTES = 120.0


class Watchdog:
    """A thread that ends the process if a block takes too long. A context manager.

    It counts its own ticks, not the time, so that a process may be suspended.

    Args:
      minutes: the limit.
      interval: seconds between two ticks.
    """

    def __init__(self, minutes: float, interval: float = 5.0):
        self._minutes, self._interval = minutes, interval
        self._name, self._ticks = "", 0  # of the current block
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    @contextlib.contextmanager
    def limit(self, name: str) -> Iterator[None]:
        """Limits the time of the block; `name` is what it waits for."""
        self._name, self._ticks = name, 0
        try:
            yield
        finally:
            self._name = ""

    def _run(self) -> None:
        while not self._closed.wait(self._interval):
            self._ticks += 1
            if self._name and self._ticks * self._interval > 60 * self._minutes:
                end_process(f"{self._name} has taken more than {self._minutes:g} minutes: a device or a process hangs")


def end_process(problem: str) -> NoReturn:
    """Prints the problem and the stacks of all threads, and ends the process at once."""
    me = f"process {jax.process_index()} of {jax.process_count()}"
    print(f"\nerror: {me}: {problem}; the same command resumes", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(2)
    os._exit(HUNG)
