"""Responses on disk: written as they are said, never lost and never doubled.

While a set is being sampled, every batch becomes one immutable part; at the end the parts are merged:

    FOLDER/parts/STEM-host00000-000012-1f0c9a3e.jsonl      one call of `write`, by process 0
    FOLDER/STEM-00000-of-00004.jsonl ...  (or STEM.jsonl)   one call of `finish`, sorted

Each file appears whole or not at all (`scotd_jax.atomic`). One invariant makes every moment safe to be killed at: a row
that was written is in at least one of these files, and whoever reads them together takes equal copies of a row for
one. So `finish` may be cut between any two renames or removals, and only has to be called again. It first writes the
merged files as parts, which they are, and gives them their names when all of them are there.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import IO
from uuid import uuid4

from etils import epath

from scotd_jax.atomic import atomic_write, disk_full_as_input_error, remove_partial_files, sync_folder
from scotd_jax.errors import InputError
from scotd_jax.rationales.response_index import ResponseKey, ResponseKeySet, RowLocation, RowLocations
from scotd_jax.records import Question, R, Response, from_json, to_json


class ResponseWriter:
    """Collects one set of responses in `folder` under the name `stem`, over any number of runs and processes.

    `host` is this process' index. All processes may write at once; one of them calls `finish` after all are done.
    """

    def __init__(self, folder: epath.PathLike, stem: str = "responses", host: int = 0):
        self._folder = epath.Path(folder)
        self._parts = self._folder / "parts"
        self._stem, self._host = stem, host
        self._part = re.compile(re.escape(stem) + r"-host\d{5,}-(\d{6,})-[0-9a-f]{8}\.jsonl")
        self._merged = re.compile(re.escape(stem) + r"(-\d{5,}-of-\d{5,})?\.jsonl")
        self._done: ResponseKeySet | None = None
        self._next = 0

    def written_keys(self) -> ResponseKeySet:
        """Names (question_id, sample_index) of all rows that are safely on disk.

        Raises InputError on a damaged file, and on two rows of one name that differ.
        """
        self._done = ResponseKeySet(name for name, _ in self._rows())
        return ResponseKeySet(self._done)

    def write(self, rows: Iterable[Response]) -> None:
        """Makes `rows` permanent, all or none of them: they are on the disk when this returns.

        Raises InputError, and writes nothing, when a row's name is taken and when the disk is full.
        """
        if self._done is None:
            self.written_keys()
        rows = list(rows)
        new: set[ResponseKey] = set()
        for row in rows:
            if row.key in self._done or row.key in new:
                raise InputError(f"{self._folder}: {_name(row.key)} is written twice; every response has its own name")
            new.add(row.key)
        if not rows:
            return
        self._write_part(to_json(row).encode() + b"\n" for row in rows)
        self._done |= new

    def merge(self, order: Sequence[str], shards: int | None) -> list[epath.Path]:
        """Merges all rows into the final files, removes the parts and returns the files.

        Rows are sorted by `order` (ids of all questions) and sample index, so the files do not depend on how often
        the sampling was cut; each of the `shards` files holds consecutive questions. None is one file STEM.jsonl.
        Raises InputError on a row of a question that is not in `order`, and as `done` does.
        """
        place = {question_id: i for i, question_id in enumerate(order)}
        old, paths, count = self._files(), self.merged_paths(shards), shards or 1
        rows = itertools.groupby(self._rows(order), lambda row: place[row[0][0]] * count // len(order))
        shard, some = next(rows, (count, ()))
        staged = []
        with _LineReader() as lines:
            for i in range(count):
                staged.append(self._write_part(lines.read(at) for _, at in (some if shard == i else ())))
                if shard == i:
                    shard, some = next(rows, (count, ()))
        # Only now, with every row in a new file, may old files be replaced and removed.
        with disk_full_as_input_error(self._folder / self._stem):
            for part, path in zip(staged, paths, strict=True):
                part.replace(path)
            sync_folder(self._folder)
        for path in old:
            if path not in paths:
                path.unlink()
        remove_partial_files(self._parts, prefix=f"{self._stem}-host")
        if not list(self._parts.iterdir()):
            self._parts.rmdir()
        return paths

    def merged_paths(self, shards: int | None) -> list[epath.Path]:
        """The files that `finish` makes."""
        if shards is None:
            return [self._folder / f"{self._stem}.jsonl"]
        return [self._folder / f"{self._stem}-{i:05d}-of-{shards:05d}.jsonl" for i in range(shards)]

    def _write_part(self, lines: Iterable[bytes]) -> epath.Path:
        path = self._parts / f"{self._stem}-host{self._host:05d}-{self._next:06d}-{uuid4().hex[:8]}.jsonl"
        with atomic_write(path) as file:
            file.writelines(lines)
        self._next += 1
        return path

    def _files(self) -> list[epath.Path]:
        """Every complete file of this set, merged ones first."""
        merged = [p for p in self._list(self._folder) if self._merged.fullmatch(p.name)]
        return merged + [p for p in self._list(self._parts) if self._part.fullmatch(p.name)]

    @staticmethod
    def _parse(line: bytes, path: epath.Path, number: int) -> Response:
        try:
            return _parse(Response, line, path, number)
        except InputError as error:
            raise InputError(
                f"{error}. If the file cannot be mended, remove it: its rows will be sampled again"
            ) from None

    @staticmethod
    def _list(folder: epath.Path) -> list[epath.Path]:
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def _rows(self, order: Sequence[str] | None = None) -> Iterator[tuple[ResponseKey, RowLocation]]:
        """All rows of all files by name, sorted by `order` if it is given; equal copies are one."""
        places = RowLocations()
        for path in self._files():
            begin = 0
            for number, line in _lines(path):
                places.add(self._parse(line, path, number).key, RowLocation(path, number, begin, len(line)))
                begin += len(line)
        parts = [int(m[1]) for m in map(self._part.fullmatch, (p.name for p in self._list(self._parts))) if m]
        self._next = max(parts, default=-1) + 1
        try:
            yield from self._once(places.sorted(order))
        except KeyError as error:
            place, question_id = error.args
            raise InputError(
                f"{place.path} line {place.line}: question {question_id!r} is not one of those asked"
            ) from None

    @staticmethod
    def _once(rows: Iterable[tuple[ResponseKey, list[RowLocation]]]) -> Iterator[tuple[ResponseKey, RowLocation]]:
        """The first place of every name. Raises InputError where another one holds something else."""
        with _LineReader() as lines:
            for name, (first, *others) in rows:
                for other in others:
                    if lines.read(other) != lines.read(first):
                        raise InputError(
                            f"{other.path} line {other.line}: {_name(name)} is also in {first.path} line {first.line} "
                            "and says something else there; two different runs wrote into this folder: remove the "
                            "file that does not belong here"
                        )
                yield name, first


class _LineReader:
    """Reads rows by their place. A few files stay open: the samples of a question lie in neighbouring ones."""

    OPEN = 16

    def __enter__(self) -> "_LineReader":
        self._files: dict[epath.Path, IO[bytes]] = {}  # the one used last comes last
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files.values():
            file.close()

    def read(self, place: RowLocation) -> bytes:
        file = self._files.pop(place.path, None) or place.path.open("rb")
        self._files[place.path] = file
        if len(self._files) > self.OPEN:
            self._files.pop(next(iter(self._files))).close()
        file.seek(place.begin)
        return _ended(file.read(place.size))


def read_responses(paths: Iterable[epath.PathLike]) -> Iterator[Response]:
    """The responses of some JSONL files, one at a time, in order.

    Raises InputError ("FILE line N: ...") on a line that is not a Response and on a name that comes twice.
    """
    seen = ResponseKeySet()
    for path, number, response in _records(Response, paths):
        if response.key in seen:
            raise InputError(
                f"{path} line {number}: {_name(response.key)} comes twice; (question_id, sample_index) must be unique"
            )
        seen.add(response.key)
        yield response


def read_questions(path: epath.PathLike) -> list[Question]:
    """The questions of a JSONL file. Raises InputError as `read_responses` does; ids must be unique."""
    questions: dict[str, Question] = {}
    for where, number, question in _records(Question, [path]):
        if question.id in questions:
            raise InputError(f"{where} line {number}: question {question.id!r} comes twice; ids must be unique")
        questions[question.id] = question
    return list(questions.values())


def _records(kind: type[R], paths: Iterable[epath.PathLike]) -> Iterator[tuple[epath.Path, int, R]]:
    for path in map(epath.Path, paths):
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected JSONL, one {kind.__name__} per line")
        for number, line in _lines(path):
            yield path, number, _parse(kind, line, path, number)


def _lines(path: epath.Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines as bytes: only "\\n" ends a line, whatever else Unicode takes for a line end."""
    with path.open("rb") as file:
        yield from enumerate(file, 1)


def _ended(line: bytes) -> bytes:
    """The line with its end, which the last line of a hand-made file may lack."""
    return line if line.endswith(b"\n") else line + b"\n"


def _parse(kind: type[R], line: bytes, path: epath.Path, number: int) -> R:
    where = f"{path} line {number}"
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error.reason} at byte {error.start} of the line)") from None
    return from_json(kind, text, where)


def _name(name: tuple[str, int]) -> str:
    return f"sample {name[1]} of question {name[0]!r}"


def response_files(folder: epath.PathLike) -> list[epath.Path]:
    """Returns the merged files of the set of responses in `folder`, in the order of their questions."""
    return sorted(epath.Path(folder).glob("responses-*.jsonl"))
