"""Response store: responses are on disk as soon as they are generated, and are never lost or duplicated.

While a set is sampled, every batch becomes one immutable part; at the end the parts are merged:

    FOLDER/parts/STEM-host00000-000012-1f0c9a3e5b7d2c4a.jsonl   one call of `write`, by process 0
    FOLDER/STEM-00000-of-00004.jsonl ...  (or STEM.jsonl)        one call of `merge`, sorted

Each file appears complete or not at all (`scotd_jax.atomic`). A process may be killed at any moment because of one
invariant: a written row is in at least one of these files, and readers count equal copies of a row once. So `merge` may
be interrupted between any two renames or removals, and then only has to be called again. It first writes the merged
files as further parts, and renames them when all of them are complete.

The name of a part ends with a digest of its content, so that damage is found before it is merged.

Other records with the key (question_id, sample_index), such as scores of responses, are written in the same way: `kind`
is their class.
"""

import contextlib
import fnmatch
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any
from uuid import uuid4

from etils import epath

from scotd_jax.atomic import atomic_write, disk_full_as_input_error, remove_partial_files, sync_folder
from scotd_jax.errors import InputError
from scotd_jax.rationales.response_index import ResponseKey, ResponseKeySet, RowLocation, RowLocations
from scotd_jax.records import RecordType, Response, from_json, to_json

DIGEST_DIGITS = 16  # of the digest in the name of a part; parts of older versions have 8 random digits
_REMOVE_IT = "If the file cannot be fixed, remove it: its rows will be sampled again"


def is_response_file(name: str) -> bool:
    """Returns whether a file of the sample job has responses, by its name."""
    return fnmatch.fnmatch(name, "responses-*.jsonl")


def read_responses(paths: Iterable[epath.PathLike]) -> Iterator[Response]:
    """Reads the responses of JSONL files one at a time, in order.

    Raises:
      InputError: if a line is not a Response, or a key occurs twice; the message begins with file and line.
    """
    seen = ResponseKeySet()
    for path in map(epath.Path, paths):
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected JSONL, one Response per line")
        with _numbered_lines(path) as lines:
            for number, line in lines:
                response = _parse(line, path, number, Response)
                if response.key in seen:
                    raise InputError(
                        f"{path} line {number}: {_describe(response.key)} comes twice; (question_id, sample_index) "
                        "must be unique"
                    )
                seen.add(response.key)
                yield response


class ResponseWriter:
    """Writes one set of responses to `folder` under the name `stem`, over any number of runs and processes.

    All processes may write at once; one of them calls `merge` after all are done.
    """

    def __init__(self, folder: epath.PathLike, stem: str = "responses", host: int = 0, kind: type[Any] = Response):
        """Opens a set of responses, which need not exist yet.

        Args:
          folder: folder of the set.
          stem: name of the set, with which its files begin.
          host: index of this process.
          kind: class of the records.
        """
        self._kind = kind
        self._folder = epath.Path(folder)
        self._parts = self._folder / "parts"
        self._stem, self._host = stem, host
        self._part_name = re.compile(re.escape(stem) + r"-host\d{5,}-(\d{6,})-([0-9a-f]{8}|[0-9a-f]{16})\.jsonl")
        self._merged_name = re.compile(re.escape(stem) + r"(-\d{5,}-of-\d{5,})?\.jsonl")
        self._written: ResponseKeySet | None = None
        self._next_part = 0

    def written_keys(self) -> ResponseKeySet:
        """Returns the keys of all rows that are on disk.

        Raises:
          InputError: if a file is damaged, or two rows with one key differ.
        """
        self._written = ResponseKeySet(key for key, _ in self._locate_rows())
        return ResponseKeySet(self._written)

    def write(self, rows: Iterable[Any]) -> None:
        """Writes all of `rows` or none of them; they are flushed to disk when this returns.

        Raises:
          InputError: if a row's key is written already, or the disk is full. Nothing is then written.
        """
        if self._written is None:
            self.written_keys()
        assert self._written is not None
        rows = list(rows)
        new: set[ResponseKey] = set()
        for row in rows:
            if row.key in self._written or row.key in new:
                raise InputError(
                    f"{self._folder}: {_describe(row.key)} is written twice; (question_id, sample_index) must be unique"
                )
            new.add(row.key)
        if not rows:
            return
        content = b"".join(to_json(row).encode() + b"\n" for row in rows)
        self._write_part([content], hashlib.sha256(content).hexdigest()[:DIGEST_DIGITS])
        self._written |= new

    def merge(self, order: Sequence[str], shards: int | None) -> list[epath.Path]:
        """Merges all rows into the final files and removes the parts.

        Rows are sorted by question and sample index, so the files do not depend on how often sampling was interrupted.

        Args:
          order: ids of all questions in the order of the output.
          shards: number of files, each with consecutive questions; None for a single file STEM.jsonl.

        Returns:
          The paths of the final files.

        Raises:
          InputError: if a row's question is not in `order`, a file is damaged, or two rows with one key differ.
        """
        rank = {question_id: i for i, question_id in enumerate(order)}
        old, paths, count = self._existing_files(), self.merged_paths(shards), shards or 1
        by_shard = itertools.groupby(self._locate_rows(order), lambda row: rank[row[0][0]] * count // len(order))
        shard, rows = next(by_shard, (count, ()))
        staged = []
        with _LineReader() as lines:
            for i in range(count):
                if shard != i:
                    staged.append(self._write_part(()))
                    continue
                staged.append(self._write_part(lines.read(location) for _, location in rows))
                shard, rows = next(by_shard, (count, ()))
        # Every row is in a new file now, so old files may be replaced and removed.
        with disk_full_as_input_error(self._folder / self._stem):
            for part, path in zip(staged, paths, strict=True):
                part.replace(path)
            sync_folder(self._folder)
        for path in old:
            if path not in paths:
                path.unlink()
        remove_partial_files(self._parts, prefix=f"{self._stem}-host")
        if self._parts.is_dir() and not list(self._parts.iterdir()):  # in a bucket no folder is empty
            self._parts.rmdir()
        return paths

    def merged_paths(self, shards: int | None) -> list[epath.Path]:
        """Returns the paths that `merge` writes."""
        if shards is None:
            return [self._folder / f"{self._stem}.jsonl"]
        return [self._folder / f"{self._stem}-{i:05d}-of-{shards:05d}.jsonl" for i in range(shards)]

    def _write_part(self, lines: Iterable[bytes], digest: str = "") -> epath.Path:
        suffix = digest or uuid4().hex[:8]
        path = self._parts / f"{self._stem}-host{self._host:05d}-{self._next_part:06d}-{suffix}.jsonl"
        with atomic_write(path) as file:
            file.writelines(lines)
        self._next_part += 1
        return path

    def _existing_files(self) -> list[epath.Path]:
        """All complete files of this set, merged ones first."""
        merged = [path for path in _list_folder(self._folder) if self._merged_name.fullmatch(path.name)]
        return merged + [path for path in _list_folder(self._parts) if self._part_name.fullmatch(path.name)]

    def _locate_rows(self, order: Sequence[str] | None = None) -> Iterator[tuple[ResponseKey, RowLocation]]:
        """Yields every key with the location of its row, sorted if `order` is set; also updates `_next_part`."""
        locations = RowLocations()
        for path in self._existing_files():
            begin, sha256 = 0, hashlib.sha256()
            with _numbered_lines(path) as lines:
                for number, line in lines:
                    key = self._parse_row(line, path, number).key
                    locations.add(key, RowLocation(path, number, begin, len(line)))
                    begin += len(line)
                    sha256.update(line)
            part = self._part_name.fullmatch(path.name)
            if part and len(part[2]) == DIGEST_DIGITS and part[2] != sha256.hexdigest()[:DIGEST_DIGITS]:
                raise InputError(f"{path}: damaged, its content differs from that which was written. {_REMOVE_IT}")
        parts = (self._part_name.fullmatch(path.name) for path in _list_folder(self._parts))
        self._next_part = max((int(part[1]) for part in parts if part), default=-1) + 1
        try:
            yield from self._deduplicate(locations.sorted(order))
        except KeyError as error:
            location, question_id = error.args
            raise InputError(
                f"{location.path} line {location.line}: question {question_id!r} is not one of the set's questions"
            ) from None

    def _parse_row(self, line: bytes, path: epath.Path, number: int) -> Any:
        try:
            return _parse(line, path, number, self._kind)
        except InputError as error:
            raise InputError(f"{error}. {_REMOVE_IT}") from None

    @staticmethod
    def _deduplicate(
        rows: Iterable[tuple[ResponseKey, list[RowLocation]]],
    ) -> Iterator[tuple[ResponseKey, RowLocation]]:
        """The first location of every key. Raises InputError if the rows of one key differ."""
        with _LineReader() as lines:
            for key, (first, *others) in rows:
                for other in others:
                    if lines.read(other) != lines.read(first):
                        raise InputError(
                            f"{other.path} line {other.line}: {_describe(key)} is also in {first.path} line "
                            f"{first.line} with different content; two different runs wrote into this folder: remove "
                            "the file that does not belong here"
                        )
                yield key, first


class _LineReader:
    """Reads rows by location. Keeps a few files open, as the samples of a question are in neighbouring files."""

    MAX_OPEN = 16

    def __enter__(self) -> "_LineReader":
        self._files: dict[epath.Path, IO[bytes]] = {}  # the most recently used file is last
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files.values():
            file.close()

    def read(self, location: RowLocation) -> bytes:
        file = self._files.pop(location.path, None) or location.path.open("rb")
        self._files[location.path] = file
        if len(self._files) > self.MAX_OPEN:
            self._files.pop(next(iter(self._files))).close()
        file.seek(location.begin)
        line = file.read(location.size)
        return line if line.endswith(b"\n") else line + b"\n"  # a hand-edited file may lack the last line end


def _list_folder(folder: epath.Path) -> list[epath.Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


@contextlib.contextmanager
def _numbered_lines(path: epath.Path) -> Iterator[Iterator[tuple[int, bytes]]]:
    """Numbered lines as bytes, split at "\\n" only and not at the other line ends of Unicode.

    A context, so that the file is closed if a line is refused.
    """
    with path.open("rb") as file:
        yield enumerate(file, 1)


def _parse(line: bytes, path: epath.Path, number: int, kind: type[RecordType]) -> RecordType:
    where = f"{path} line {number}"
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error.reason} at byte {error.start} of the line)") from None
    return from_json(kind, text, where)


def _describe(key: ResponseKey) -> str:
    return f"sample {key[1]} of question {key[0]!r}"
