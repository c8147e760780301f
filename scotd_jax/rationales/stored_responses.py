"""Random access by question to a finished set of responses, from disk and in bounded memory.

The files of a finished set are sorted (store.py), so all rows of a question are consecutive. One quick pass, which
parses little more than question ids, finds where the rows of each question begin; rows are read on demand. A process
that builds one shard of a corpus reads only the rows of that shard. Sets of scores of responses are read in the same
way.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.records import RecordType, Response, from_json
from scotd_jax.strict_json import loads

# Beginning of a line that the store has written. A line that begins otherwise is parsed completely.
_QUESTION_ID = re.compile(rb'\{"question_id": ("(?:[^"\\]|\\.)*"),')


class StoredResponses:
    """One finished set of responses, indexed by the position of the question.

    Attributes:
      counts: int64[questions], the number of responses to each question.
      unmatched: number of responses to questions that are not in `positions`, by (question id, model).
    """

    def __init__(self, paths: Sequence[epath.Path], positions: Mapping[str, int], kind: type[Any] = Response):
        """Scans the files of a set.

        Args:
          paths: files of the set, in order.
          positions: question id -> position of the question, from 0.
          kind: class of the records.

        Raises:
          InputError: if the rows of a question are not consecutive, or a row is not a response; the message names
            file and line.
        """
        self._paths, self._kind = list(paths), kind
        self.counts, self._file, self._line, self._begin, self._size = np.zeros((5, len(positions)), np.int64)
        self.unmatched: collections.Counter[tuple[str, str]] = collections.Counter()
        self._open: tuple[int, BinaryIO] | None = None
        for number, path in enumerate(self._paths):
            if not path.is_file():
                raise InputError(f"{path}: no such file; make the set of responses again: --overwrite=sample")
            self._scan(number, path, positions)

    def read(self, position: int) -> list[Any]:
        """Reads all records of the question at `position`.

        Raises:
          InputError: if a row is damaged; the message names file and line.
        """
        if not self.counts[position]:
            return []
        number, begin, size = int(self._file[position]), int(self._begin[position]), int(self._size[position])
        path, line = self._paths[number], int(self._line[position])
        name = str(path)
        if self._open is None or self._open[0] != number:
            self.close()
            self._open = number, path.open("rb")  # pyrefly: ignore[bad-assignment]
        assert self._open is not None
        file = self._open[1]
        if file.tell() != begin:  # consecutive questions are read without a seek, which is expensive in a bucket
            file.seek(begin)
        lines = file.read(size).removesuffix(b"\n").split(b"\n")
        return [_parse(data, f"{name} line {line + i}", self._kind) for i, data in enumerate(lines)]

    def close(self) -> None:
        """Closes the open file; `read` opens it again."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": None}

    def _scan(self, number: int, path: epath.Path, positions: Mapping[str, int]) -> None:
        """Records where the rows of each question in file `number` begin."""
        begin, last_raw_id, position = 0, b"", -1
        with path.open("rb") as file:
            for line, data in enumerate(file, 1):
                match = _QUESTION_ID.match(data)
                raw_id = match[1] if match else data
                if raw_id != last_raw_id:
                    where = f"{path} line {line}"
                    question_id = _question_id(raw_id, where) if match else _parse(data, where, self._kind).question_id
                    previous, position = position, positions.get(question_id, -1)
                    if position not in (-1, previous):
                        self._begin_question(position, question_id, number, line, begin, where)
                    last_raw_id = raw_id
                if position < 0:
                    row = _parse(data, f"{path} line {line}", self._kind)
                    self.unmatched[row.question_id, getattr(row, "model", "")] += 1
                else:
                    self.counts[position] += 1
                    self._size[position] += len(data)
                begin += len(data)

    def _begin_question(self, position: int, question_id: str, number: int, line: int, begin: int, where: str) -> None:
        if self.counts[position]:
            raise InputError(
                f"{where}: question {question_id!r} comes again after others; the rows of a question are consecutive "
                "in a finished set: make it again with --overwrite=sample"
            )
        self._file[position], self._line[position], self._begin[position] = number, line, begin


def concatenate_sets(sets: Iterable[Sequence[Response]]) -> list[Response]:
    """Concatenates the responses of several sets to one question.

    The first set keeps its sample indices; those of every further set are shifted to follow the last index before.
    """
    rows: list[Response] = []
    offset = 0
    for responses in sets:
        if offset:
            responses = [dataclasses.replace(row, sample_index=row.sample_index + offset) for row in responses]
        rows += responses
        offset = max((row.sample_index + 1 for row in rows), default=0)
    return rows


def _question_id(raw_id: bytes, where: str) -> str:
    try:
        return loads(raw_id)
    except ValueError as error:
        raise InputError(f"{where}: field 'question_id' is not JSON ({error})") from None


def _parse(data: bytes, where: str, kind: type[RecordType]) -> RecordType:
    try:
        return from_json(kind, data.decode(), where)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error.reason} at byte {error.start} of the line)") from None
