"""Compact indexes of responses by key: some tens of megabytes for a million of them.

The key of a response is (question_id, sample_index). `ResponseKeySet` is a set of keys with one integer per question,
whose bits are the samples. `RowLocations` holds six integers per row.
"""

import array
import collections.abc
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

ResponseKey = tuple[str, int]


class ResponseKeySet(collections.abc.MutableSet):
    """A set of keys. It compares equal to an ordinary set of the same keys."""

    # Keys with a larger sample index are stored in an ordinary set. No job creates them, but an imported file may, and
    # an integer per question needs as many bits as its largest sample index.
    _MAX_BITS = 4096

    def __init__(self, keys: Iterable[ResponseKey] = ()):
        self._samples: dict[str, int] = {}
        self._others: set[ResponseKey] = set()
        self._count = 0
        for key in keys:
            self.add(key)

    def __contains__(self, key: ResponseKey) -> bool:  # pyrefly: ignore[bad-override]
        question_id, sample_index = key
        if sample_index >= self._MAX_BITS:
            return key in self._others
        return bool(self._samples.get(question_id, 0) >> sample_index & 1)

    def __iter__(self) -> Iterator[ResponseKey]:
        for question_id, samples in self._samples.items():
            yield from ((question_id, i) for i in range(samples.bit_length()) if samples >> i & 1)
        yield from self._others

    def __len__(self) -> int:
        return self._count

    def add(self, key: ResponseKey) -> None:
        if key not in self:
            self._count += 1
            self._flip(key)

    def discard(self, key: ResponseKey) -> None:
        if key in self:
            self._count -= 1
            self._flip(key)

    def _flip(self, key: ResponseKey) -> None:
        question_id, sample_index = key
        if sample_index >= self._MAX_BITS:
            self._others ^= {key}
        else:
            self._samples[question_id] = self._samples.get(question_id, 0) ^ 1 << sample_index

    def __repr__(self) -> str:
        return f"ResponseKeySet({list(self)!r})"


class RowLocation(NamedTuple):
    """Location of a row: file, line (from 1), first byte, and number of bytes with the line end."""

    path: epath.Path
    line: int
    begin: int
    size: int


class RowLocations:
    """Locations of rows by key, in the order in which they were added. The rows themselves stay on disk."""

    _COLUMNS = 6  # question, sample, file, line, begin, size

    def __init__(self) -> None:
        self._questions: dict[str, int] = {}
        self._paths: dict[epath.Path, int] = {}
        self._cells = array.array("q")

    def add(self, key: ResponseKey, location: RowLocation) -> None:
        question_id, sample_index = key
        question = self._questions.setdefault(question_id, len(self._questions))
        file = self._paths.setdefault(location.path, len(self._paths))
        self._cells.extend((question, sample_index, file, location.line, location.begin, location.size))

    def sorted(self, order: Sequence[str] | None = None) -> Iterator[tuple[ResponseKey, list[RowLocation]]]:
        """Yields every key once, with the locations of its rows.

        Args:
          order: question ids in the order of the output; None is the order in which they were added. The samples of
            a question are sorted by index.

        Raises:
          KeyError: with location and question id of a row whose question is not in `order`.
        """
        table = np.frombuffer(self._cells, np.int64).reshape(-1, self._COLUMNS)
        ids, paths = list(self._questions), list(self._paths)
        rank = np.arange(len(ids))
        if order is not None:
            rank_of = {question_id: i for i, question_id in enumerate(order)}
            rank = np.array([rank_of.get(question_id, -1) for question_id in ids], np.int64)
            for row in table[rank[table[:, 0]] < 0][:1]:
                raise KeyError(RowLocation(paths[row[2]], *row[3:].tolist()), ids[row[0]])
        previous, locations = None, []
        for i in np.lexsort((table[:, 1], rank[table[:, 0]])):  # stable: rows of one key stay in the order of addition
            question, sample, file, *location = table[i].tolist()
            if previous != (question, sample):
                if previous is not None:
                    yield (ids[previous[0]], previous[1]), locations
                previous, locations = (question, sample), []
            locations.append(RowLocation(paths[file], *location))
        if previous is not None:
            yield (ids[previous[0]], previous[1]), locations
