"""Which row says which sample, and when a lane takes its next question: bookkeeping of the host, without arrays.

A question's samples are said by the rows of one lane, which holds the contexts of up to W questions at a time. Rows
that are free begin the next waiting sample of their lane, the oldest question first, so a lane asks for a question as
soon as none of its samples waits: before its rows stand idle.
"""

import collections
import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from scotd_jax.sampling.requests import Request


@dataclasses.dataclass
class _Held:
    """A question in a place of a lane: its samples that wait, and how many are under way."""

    request: Request
    waiting: collections.deque[int]
    under_way: int = 0


class Beginning(NamedTuple):
    """A row begins a sample of the question in `place` of its lane."""

    lane: int
    row: int
    place: int
    request: Request
    sample_index: int


class Lanes:
    def __init__(self, lanes: int, rows: int, places: int):
        # Held questions of each lane by place, the oldest first.
        self._held: list[dict[int, _Held]] = [{} for _ in range(lanes)]
        self._free: list[list[int]] = [list(range(rows)) for _ in range(lanes)]
        self._said: dict[tuple[int, int], tuple[int, int]] = {}  # (lane, row) -> place, sample index
        self._places = places

    @property
    def busy(self) -> int:
        """Rows that say something."""
        return len(self._said)

    def wanting(self) -> list[int]:
        """Lanes that can take a question and have no sample left to begin, those with most free rows first."""
        able = [
            lane
            for lane, held in enumerate(self._held)
            if len(held) < self._places and not any(each.waiting for each in held.values())
        ]
        return sorted(able, key=lambda lane: -len(self._free[lane]))

    def take(self, lane: int, request: Request) -> int:
        """Puts a question into a free place of the lane, and returns the place."""
        place = next(w for w in range(self._places) if w not in self._held[lane])
        self._held[lane][place] = _Held(request, collections.deque(request.sample_indices))
        return place

    def begin(self) -> Iterator[Beginning]:
        """Free rows begin waiting samples, as long as there are both."""
        for lane, held in enumerate(self._held):
            free = self._free[lane]
            for place, question in held.items():
                while free and question.waiting:
                    row, sample_index = free.pop(0), question.waiting.popleft()
                    question.under_way += 1
                    self._said[lane, row] = place, sample_index
                    yield Beginning(lane, row, place, question.request, sample_index)

    def end(self, lane: int, row: int) -> tuple[Request, int]:
        """The row is free again; a question without samples leaves its place. Returns what the row has said."""
        place, sample_index = self._said.pop((lane, row))
        self._free[lane].append(row)
        question = self._held[lane][place]
        question.under_way -= 1
        if not question.waiting and not question.under_way:
            del self._held[lane][place]
        return question.request, sample_index
