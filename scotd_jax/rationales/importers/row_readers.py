"""Reads rows from JSON lines (gzipped or not), JSON documents and Parquet files, including damaged ones.

A broken line is one bad row, and the lines of a truncated file are read up to its end. A broken JSON document is one
bad row, as none of its records can be parsed.
"""

import contextlib
import gzip
import re
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.rationales.importers.imported import BadRow, BadRowError, SourceRow
from scotd_jax.strict_json import loads

_TRUNCATED = (EOFError, zlib.error, gzip.BadGzipFile)


def read_records(path: epath.Path) -> Iterator[SourceRow | BadRow]:
    """Yields the rows of a file in any of the usual forms: JSON lines, a JSON list, a single record, Parquet."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        return read_parquet(path)
    try:
        with _open(path) as file:
            head = file.readline()
            while head and not head.strip():
                head = file.readline()
    except _TRUNCATED:
        head = b""
    if head.lstrip().startswith(b"["):
        return read_json_document(path, list)
    if head.strip() == b"{" and not name.endswith("l"):  # an object over several lines
        return _read_single_record(path)
    return read_json_lines(path)


def read_json_lines(path: epath.Path) -> Iterator[SourceRow | BadRow]:
    """Yields one row per line that is not blank. Only a line feed ends a line."""
    name, number, count = str(path), 0, 0  # once per file: str of an epath is slow
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _parse_line(line, f"{name} line {number}", count)
                    count += 1
    except _TRUNCATED as error:
        detail = f"the file is truncated ({error}); the lines before this one were read"
        yield BadRow(f"{name} line {number + 1}", count, "broken", detail, rest_lost=True)


def read_json_document(path: epath.Path, form: type[list] | type[dict]) -> Iterator[SourceRow | BadRow]:
    """Yields the items of one JSON list, or the values of one JSON object with their keys, in the order of the file.

    Args:
      path: the file.
      form: expected type of the document.
    """
    description = {list: "list of records", dict: "object whose values are the records"}[form]
    name = str(path)
    try:
        with _open(path) as file:
            value: Any = _parse_json(file.read())
        if not isinstance(value, form):
            raise BadRowError("wrong form", f"found a JSON {type(value).__name__}")
    except _TRUNCATED as error:
        detail = f"the file is truncated ({error}); expected one JSON {description}"
        yield BadRow(name, 0, "broken", detail, rest_lost=True)
        return
    except BadRowError as bad:
        yield BadRow(name, 0, bad.reason, f"{bad.detail}; expected one JSON {description}", rest_lost=True)
        return
    for number, item in enumerate(value.items() if isinstance(value, dict) else value):
        if form is dict:
            yield SourceRow(f"{name} row {number + 1} (key {item[0]!r})", number, item[1], item[0])
        else:
            yield SourceRow(f"{name} row {number + 1}", number, item)


def read_parquet(path: epath.Path) -> Iterator[SourceRow | BadRow]:
    """Yields the rows of a Parquet file, about a thousand in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with path.open("rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    yield SourceRow(f"{path} row {number + 1}", number, value)
                    number += 1
    except pa.ArrowException as error:
        yield BadRow(f"{path} row {number + 1}", number, "broken", f"not a Parquet file ({error})", rest_lost=True)


def expand_paths(path: str, where: str) -> list[epath.Path]:
    """Expands a path that may contain `*`.

    Args:
      path: a path or a pattern.
      where: location in the config, with which error messages begin.

    Returns:
      The files, with the numbers in their names in numerical order (shard 2 before shard 10).

    Raises:
      InputError: if no file matches the path, or it contains `**`.
    """
    if not path:
        raise InputError(f"{where}: needs the files to import; a path may contain *")
    if "**" in path:
        raise InputError(f"{where}: {path}: one * per folder; ** is not supported")
    fixed, pattern = epath.Path(path), ""
    while "*" in str(fixed):
        fixed, pattern = fixed.parent, f"{fixed.name}/{pattern}".rstrip("/")
    if not pattern:
        if fixed.is_file():
            return [fixed]
        raise InputError(f"{where}: {path} " + ("is a folder; name its files" if fixed.is_dir() else "is no file"))
    found = sorted((p for p in fixed.glob(pattern) if p.is_file()), key=_natural_key) if fixed.is_dir() else []
    if not found:
        raise InputError(f"{where}: no file matches {path}")
    return found


def read_ids(path: epath.Path) -> list[str]:
    """Reads a file of question ids, one per line; blank lines are ignored.

    Raises:
      InputError: if the file is missing or an id occurs twice.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected one question id per line")
    found: dict[str, int] = {}
    try:
        lines = path.read_bytes().decode().split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    for number, line in enumerate(lines, 1):
        if name := line.strip():
            if name in found:
                raise InputError(
                    f"{path} line {number}: {name!r} is also in line {found[name]}; expected every id once"
                )
            found[name] = number
    return list(found)


def stem(path: epath.Path) -> str:
    """Returns the file's name without .gz and without its extension."""
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name


def _read_single_record(path: epath.Path) -> Iterator[SourceRow | BadRow]:
    """Yields a JSON object as one row, or a bad row if the document is broken."""
    for row in read_json_document(path, dict):
        if isinstance(row, BadRow):
            yield row
            return
        break
    with _open(path) as file:
        yield SourceRow(f"{path} row 1", 0, _parse_json(file.read()))


def _parse_line(line: bytes, where: str, count: int) -> SourceRow | BadRow:
    try:
        return SourceRow(where, count, _parse_json(line))
    except BadRowError as bad:
        return BadRow(where, count, bad.reason, f"{bad.detail}; expected one JSON object per line")


def _parse_json(text: bytes) -> Any:
    """Parses JSON. Raises BadRowError if it is broken, or if an object has a key twice and would lose a value."""
    try:
        return loads(text, _unique_keys, allow_nan=True)  # a number that is not finite may be in a field without use
    except UnicodeDecodeError as error:
        raise BadRowError("broken", f"not UTF-8 ({error.reason} at byte {error.start})") from None
    except ValueError as error:
        raise BadRowError("broken", f"not JSON ({error})") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        key = next(k for k, _ in pairs if k in seen or seen.add(k))
        raise BadRowError("duplicate", f"the key {key!r} comes twice in one object")
    return value


@contextlib.contextmanager
def _open(path: epath.Path) -> Iterator[BinaryIO]:
    """Opens a file for reading, and decompresses it if its name ends in .gz."""
    with path.open("rb") as file:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(fileobj=file) as decompressed:
                yield decompressed  # pyrefly: ignore[invalid-yield]
        else:
            yield file  # pyrefly: ignore[invalid-yield]


def _natural_key(path: epath.Path) -> list[Any]:
    """Sort key by which "part 10" follows "part 2"."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", str(path))]
