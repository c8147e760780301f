"""Names of responses, and where the responses lie, in little memory: some tens of megabytes for a million of them.

A name is (question_id, sample_index). `Names` is a set of them that holds one number per question, whose bits are the
samples; `Places` holds six numbers per row.
"""

import array
import collections.abc
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

ResponseKey = tuple[str, int]


class ResponseKeySet(collections.abc.MutableSet):
    """A set of names, equal to the ordinary set of the same names."""

    _BITS = 4096  # samples from this number on, which nobody asks for but a file may hold, are kept as they are

    def __init__(self, names: Iterable[ResponseKey] = ()):
        self._samples: dict[str, int] = {}
        self._others: set[ResponseKey] = set()
        self._count = 0
        for name in names:
            self.add(name)

    def __contains__(self, name: object) -> bool:
        question_id, sample_index = name
        if sample_index >= self._BITS:
            return name in self._others
        return bool(self._samples.get(question_id, 0) >> sample_index & 1)

    def __iter__(self) -> Iterator[ResponseKey]:
        for question_id, samples in self._samples.items():
            yield from ((question_id, i) for i in range(samples.bit_length()) if samples >> i & 1)
        yield from self._others

    def __len__(self) -> int:
        return self._count

    def add(self, name: ResponseKey) -> None:
        if name not in self:
            self._count += 1
            self._flip(name)

    def discard(self, name: ResponseKey) -> None:
        if name in self:
            self._count -= 1
            self._flip(name)

    def _flip(self, name: ResponseKey) -> None:
        if name[1] >= self._BITS:
            self._others ^= {name}
        else:
            self._samples[name[0]] = self._samples.get(name[0], 0) ^ 1 << name[1]

    def __repr__(self) -> str:
        return f"Names({list(self)!r})"


class RowLocation(NamedTuple):
    """Where a row lies: the line of a file, counted from 1, its first byte and its bytes with the line end."""

    path: epath.Path
    line: int
    begin: int
    size: int


class RowLocations:
    """Rows in the order in which they were added. The rows themselves stay on disk."""

    _WIDTH = 6  # question, sample, file, line, begin, size

    def __init__(self):
        self._numbers: dict[str, int] = {}  # of questions
        self._paths: dict[epath.Path, int] = {}
        self._cells = array.array("q")

    def add(self, name: ResponseKey, place: RowLocation) -> None:
        question = self._numbers.setdefault(name[0], len(self._numbers))
        file = self._paths.setdefault(place.path, len(self._paths))
        self._cells.extend((question, name[1], file, place.line, place.begin, place.size))

    def sorted(self, order: Sequence[str] | None = None) -> Iterator[tuple[ResponseKey, list[RowLocation]]]:
        """Every name once, by question (as in `order`, else as they came) and sample, with the places of its rows.

        Raises KeyError with the Place of a row whose question is not in `order`.
        """
        table = np.frombuffer(self._cells, np.int64).reshape(-1, self._WIDTH)
        ids, paths = list(self._numbers), list(self._paths)
        rank = np.arange(len(ids))
        if order is not None:
            known = {question_id: i for i, question_id in enumerate(order)}
            rank = np.array([known.get(question_id, -1) for question_id in ids], np.int64)
            for row in table[rank[table[:, 0]] < 0][:1]:
                raise KeyError(RowLocation(paths[row[2]], *row[3:].tolist()), ids[row[0]])
        before, found = None, []
        for at in np.lexsort((table[:, 1], rank[table[:, 0]])):  # stable: of equal names the first that came
            question, sample, file, *where = table[at].tolist()
            if before != (question, sample):
                if before is not None:
                    yield (ids[before[0]], before[1]), found
                before, found = (question, sample), []
            found.append(RowLocation(paths[file], *where))
        if before is not None:
            yield (ids[before[0]], before[1]), found
