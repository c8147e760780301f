"""Files as rows: JSON lines, one big JSON list or object, Parquet; also gzipped, and broken in the middle.

A line that is broken costs that line, and a file of lines that ends too early keeps the lines before its end. One big
JSON document that is broken is one bad record: nothing of it can be told.
"""

import contextlib
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.rationales.importers.imported import BadRow, BadRowError, SourceRow

_CUT = (EOFError, zlib.error, gzip.BadGzipFile)


def expand_paths(path: str, where: str) -> list[epath.Path]:
    """The files that `path` stands for, the numbers in their names in numerical order (shard 2 before shard 10).

    Raises InputError if there is none.
    """
    if not path:
        raise InputError(f"{where}: needs the files to import; a path may hold *")
    if "**" in path:
        raise InputError(f"{where}: {path}: one * per folder; ** is not supported")
    fixed, pattern = epath.Path(path), ""
    while "*" in str(fixed):
        fixed, pattern = fixed.parent, f"{fixed.name}/{pattern}".rstrip("/")
    if not pattern:
        if fixed.is_file():
            return [fixed]
        raise InputError(f"{where}: {path} " + ("is a folder; name its files" if fixed.is_dir() else "is no file"))
    found = sorted((p for p in fixed.glob(pattern) if p.is_file()), key=natural) if fixed.is_dir() else []
    if not found:
        raise InputError(f"{where}: no file matches {path}")
    return found


def natural(path: epath.Path) -> list[Any]:
    """Sorts "part 10" after "part 2"."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", str(path))]


def read_ids(path: epath.Path) -> list[str]:
    """The lines of a text file that are not blank. Raises InputError if it is missing or names something twice."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the id of a question per line")
    found: dict[str, int] = {}
    for number, line in enumerate(path.read_text().split("\n"), 1):
        if name := line.strip():
            if name in found:
                raise InputError(
                    f"{path} line {number}: {name!r} is also in line {found[name]}; expected every id once"
                )
            found[name] = number
    return list(found)


def stem(path: epath.Path) -> str:
    """The file's name without .gz and without what is left of its ending."""
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name


@contextlib.contextmanager
def open_unzipped(path: epath.Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked on the way where its name ends in .gz."""
    with path.open("rb") as file:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked
        else:
            yield file


def read_json_lines(path: epath.Path) -> Iterator[SourceRow | BadRow]:
    """One row per line that is not blank; only a line feed ends a line."""
    name, number, count = str(path), 0, 0  # the name of an epath is dear to make
    try:
        with open_unzipped(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _line(line, f"{name} line {number}", count)
                    count += 1
    except _CUT as error:
        detail = f"the file ends too early ({error}); what came before this line could be read"
        yield BadRow(f"{name} line {number + 1}", count, "broken", detail, rest_lost=True)


def _line(line: bytes, where: str, count: int) -> SourceRow | BadRow:
    try:
        return SourceRow(where, count, _json(line))
    except BadRowError as bad:
        return BadRow(where, count, bad.reason, f"{bad.detail}; expected one JSON object per line")


def read_json_document(path: epath.Path, form: type[list] | type[dict]) -> Iterator[SourceRow | BadRow]:
    """The items of one big JSON list, or the values of one big JSON object with their keys, in the file's order."""
    named = {list: "list of records", dict: "object whose values are the records"}[form]
    name = str(path)
    try:
        with open_unzipped(path) as file:
            value = _json(file.read())
        if not isinstance(value, form):
            raise BadRowError("wrong form", f"found a JSON {type(value).__name__}")
    except _CUT as error:
        yield BadRow(name, 0, "broken", f"the file ends too early ({error}); expected one JSON {named}", rest_lost=True)
        return
    except BadRowError as bad:
        yield BadRow(name, 0, bad.reason, f"{bad.detail}; expected one JSON {named}", rest_lost=True)
        return
    for number, item in enumerate(value.items() if form is dict else value):
        if form is dict:
            yield SourceRow(f"{name} row {number + 1} (key {item[0]!r})", number, item[1], item[0])
        else:
            yield SourceRow(f"{name} row {number + 1}", number, item)


def read_records(path: epath.Path) -> Iterator[SourceRow | BadRow]:
    """Rows of a file in whichever of the usual forms: lines, a list, a single record, Parquet."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        return read_parquet(path)
    try:
        with open_unzipped(path) as file:
            head = file.readline()
            while head and not head.strip():
                head = file.readline()
    except _CUT:
        head = b""
    if head.lstrip().startswith(b"["):
        return read_json_document(path, list)
    if head.strip() == b"{" and not name.endswith("l"):  # an object that is spread over lines
        return _single(path)
    return read_json_lines(path)


def _single(path: epath.Path) -> Iterator[SourceRow | BadRow]:
    for row in read_json_document(path, dict):
        if isinstance(row, BadRow):
            yield row
            return
        break
    with open_unzipped(path) as file:
        yield SourceRow(f"{path} row 1", 0, _json(file.read()))


def read_parquet(path: epath.Path) -> Iterator[SourceRow | BadRow]:
    """Rows of a Parquet file, some thousand in memory at a time."""
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
        yield BadRow(f"{path} row {number + 1}", number, "broken", f"no Parquet file ({error})", rest_lost=True)


def _json(text: bytes) -> Any:
    """Raises BadRowError on broken JSON, and on an object that names a key twice: of two values one would be lost."""
    try:
        return json.loads(text.decode(), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise BadRowError("broken", f"not UTF-8 ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise BadRowError("broken", f"not JSON ({error})") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        key = next(k for k, _ in pairs if k in seen or seen.add(k))
        raise BadRowError("duplicate", f"the key {key!r} comes twice in one object")
    return value
