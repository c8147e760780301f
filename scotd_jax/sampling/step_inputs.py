"""The host's side of the rows: what each is ordered to do, and what it has said so far."""

from collections.abc import Callable

import numpy as np

from scotd_jax.sampling import decode_loop
from scotd_jax.sampling.noise import name_words
from scotd_jax.sampling.requests import Request
from scotd_jax.sampling.scheduler import Lanes

Split = Callable[[Request], tuple[list[int], list[int], int]]  # exemplars, what follows them, first input


class Orders:
    """`arrays` are the orders as they stand (engine.Orders, of numpy arrays); `busy` rows say something."""

    def __init__(self, B: int, G: int):
        whole = np.zeros((B, G), np.int32)
        self.arrays = decode_loop.Orders(whole > 0, whole, whole.copy(), np.zeros((B, G, 2), np.uint32), whole.copy())
        self.busy = whole > 0
        self._position = whole.copy()

    def begin(self, lanes: Lanes, split: Split) -> None:
        """Whatever can begin is ordered to."""
        fresh, start, place, words, index = self.arrays = decode_loop.Orders(*map(np.copy, self.arrays))
        fresh[:] = False
        for lane, row, where, request, sample_index in lanes.begin():
            at = lane, row
            fresh[at], place[at], index[at] = True, where, sample_index
            start[at], words[at] = split(request)[2], name_words(request.question_id)
            self.busy[at], self._position[at] = True, 0

    def hear(self, tokens: np.ndarray, new: np.ndarray, position: np.ndarray) -> int:
        """Appends the new tokens[B, G, C] of every row to what it has said, and returns how many there are."""
        count = np.where(self.busy, position - self._position, 0)
        for step in range(count.max(initial=0)):
            at = np.nonzero(count > step)
            tokens[(*at, self._position[at] + step)] = new[(*at, step)]
        self._position = np.where(self.busy, position, 0)
        return int(count.sum())
