"""Readers of data files: JSON lines, a JSON list, a JSON object of rows, CSV and TSV, all optionally gzipped.

The form of a JSON file is detected from its content, since names mislead: QuaRel's `dev.jsonl` is one object
{"0": {}, ...}.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from scotd_jax.errors import InputError, list_names
from scotd_jax.strict_json import loads

# "FILE line N" or "FILE row N", for messages, and the fields of the row.
LocatedRow = tuple[str, Mapping[str, Any]]

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")


def split_name(path: epath.Path) -> str | None:
    """Returns the file name without its suffix, "train" for train.csv.gz; None for a file of another type."""
    name = path.name.removesuffix(".gz")
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), None)


def read_rows(path: epath.Path) -> Iterator[LocatedRow]:
    """Returns the rows of a file in order.

    Raises:
      InputError: if the file is missing, damaged or of another type.
    """
    name = path.name.removesuffix(".gz")
    if name.endswith((".jsonl", ".json")):
        return _json_rows(path)
    if name.endswith((".csv", ".tsv")):
        return _table_rows(path, "\t" if name.endswith(".tsv") else ",")
    raise InputError(f"{path}: expected a file whose name ends with {', '.join(SUFFIXES)} (or one of these and .gz)")


def read_text(path: epath.Path) -> str:
    """Returns the text of a file, decompressed if its name ends with .gz.

    Raises:
      InputError: if the file is missing, is not UTF-8 or is not a complete gzip file.
    """
    try:
        data = path.read_bytes()
        text = gzip.decompress(data) if path.name.endswith(".gz") else data
        return text.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a complete gzip file ({error}); download it again") from None


def read_lines(path: epath.Path) -> list[tuple[str, str]]:
    """Returns ("FILE line N", line) for every non-blank line. Raises InputError like `read_text`."""
    return _lines(path, read_text(path))


def _lines(path: epath.Path, text: str) -> list[tuple[str, str]]:
    # Not splitlines: a question may contain one of the rarer Unicode line separators.
    return [(f"{path} line {i}", line) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _json_rows(path: epath.Path) -> Iterator[LocatedRow]:
    text = read_text(path)
    try:
        whole = loads(text)
    except ValueError as error:
        if text.lstrip().startswith("["):
            line = f" line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise InputError(f"{path}{line}: not a complete JSON list ({error})") from None
        whole = None
    if isinstance(whole, list):
        for i, row in enumerate(whole, start=1):
            yield _object(row, f"{path} row {i}")
    elif isinstance(whole, dict) and all(key.isdecimal() and isinstance(row, dict) for key, row in whole.items()):
        for key, row in whole.items():
            yield f"{path} row {key}", row
    else:
        for where, line in _lines(path, text):
            try:
                row = loads(line)
            except ValueError as error:
                raise InputError(f"{where}: not a JSON object ({error})") from None
            yield _object(row, where)


def _object(row: Any, where: str) -> LocatedRow:
    """Returns a located row. Raises InputError if it is not a JSON object."""
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected a JSON object, found {str(row)[:60]!r}")
    return where, row


def _table_rows(path: epath.Path, delimiter: str) -> Iterator[LocatedRow]:
    """Yields the rows of a table with CSV quoting; the first line names the columns."""
    lines = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(lines, [])
        for values in lines:
            where = f"{path} line {lines.line_num}"
            if values and len(values) != len(header):
                raise InputError(f"{where}: {len(values)} fields, but line 1 names {len(header)}: {list_names(header)}")
            if values:
                yield where, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise InputError(f"{path} line {lines.line_num}: not a row of {path.name} ({error})") from None
