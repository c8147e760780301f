"""Sets of responses as a stream by question, from disk and in bounded memory.

The files of a finished set are sorted (store.py): all rows of a question lie together. So one quick pass, which parses
next to nothing, finds where each question begins; its rows are read when their turn comes. Whoever makes a part of a
corpus reads only that part.
"""

import collections
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.records import Response, from_json

# How the store writes a line. Any other way of writing it is parsed.
_BEGIN = re.compile(rb'\{"question_id": ("(?:[^"\\]|\\.)*"),')


class StoredResponses:
    """One finished set of responses, by the place of their question in an order.

    `counts` int64[questions] says how many there are to each. `foreign` counts those to questions that are not in the
    order, by (question id, model).
    """

    def __init__(self, paths: Sequence[epath.Path], place: Mapping[str, int]):
        """Looks through `paths`; `place` numbers the ids of all questions from 0.

        Raises InputError, naming file and line, if the rows of a question do not lie together or are no responses.
        """
        self._paths = list(paths)
        self.counts, self._file, self._line, self._begin, self._size = np.zeros((5, len(place)), np.int64)
        self.unmatched: collections.Counter[tuple[str, str]] = collections.Counter()
        self._open: tuple[int, BinaryIO] | None = None
        for number, path in enumerate(self._paths):
            if not path.is_file():
                raise InputError(f"{path}: no such file; make the set of responses again: --overwrite=sample")
            self._look_through(number, path, place)

    def _look_through(self, number: int, path: epath.Path, place: Mapping[str, int]) -> None:
        begin, last, at = 0, b"", -1
        with path.open("rb") as file:
            for line, data in enumerate(file, 1):
                found = _BEGIN.match(data)
                key = found[1] if found else data
                if key != last:
                    where = f"{path} line {line}"
                    id_ = json.loads(key) if found else _parsed(data, where).question_id
                    last, at = key, self._begin_of(number, line, begin, place.get(id_, -1), at, id_, where)
                if at < 0:
                    row = _parsed(data, f"{path} line {line}")
                    self.unmatched[row.question_id, row.model] += 1
                else:
                    self.counts[at] += 1
                    self._size[at] += len(data)
                begin += len(data)

    def _begin_of(self, number: int, line: int, begin: int, at: int, before: int, id_: str, where: str) -> int:
        """Notes where the rows of the question at place `at` begin; the place."""
        if at < 0 or at == before:
            return at
        if self.counts[at]:
            raise InputError(
                f"{where}: question {id_!r} comes again after others; the rows of a question lie together in a "
                "finished set: make it again with --overwrite=sample"
            )
        self._file[at], self._line[at], self._begin[at] = number, line, begin
        return at

    def read(self, place: int) -> list[Response]:
        """All responses to the question at `place`. Raises InputError ("FILE line N: ...") on a damaged one."""
        if not self.counts[place]:
            return []
        number, begin, size = int(self._file[place]), int(self._begin[place]), int(self._size[place])
        path, line = self._paths[number], int(self._line[place])
        name = str(path)
        if self._open is None or self._open[0] != number:
            self.close()
            self._open = number, path.open("rb")
        file = self._open[1]
        if file.tell() != begin:  # neighbours are read without a jump, which is dear in a bucket
            file.seek(begin)
        lines = file.read(size).removesuffix(b"\n").split(b"\n")
        return [_parsed(data, f"{name} line {line + i}") for i, data in enumerate(lines)]

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": None}


def concatenate_sets(sets: Iterable[Sequence[Response]]) -> list[Response]:
    """The responses of several sets to one question in a row: first those of the first set, under their own sample
    index, then those of the second, numbered on from the last; and so on."""
    rows: list[Response] = []
    offset = 0
    for each in sets:
        rows += [dataclasses.replace(r, sample_index=r.sample_index + offset) for r in each] if offset else each
        offset = max((row.sample_index + 1 for row in rows), default=0)
    return rows


def _parsed(data: bytes, where: str) -> Response:
    try:
        return from_json(Response, data.decode(), where)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error.reason} at byte {error.start} of the line)") from None
