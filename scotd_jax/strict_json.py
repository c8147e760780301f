"""Parses JSON more strictly than Python's parser, and reads JSON files.

Besides broken JSON, it refuses duplicate keys (a value would be lost), NaN, Infinity and numbers beyond float64, deep
nesting, text that is not UTF-8, and lone surrogates, which cannot be written to a file again.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn, Protocol, runtime_checkable

from scotd_jax.errors import InputError

MAX_DIGITS = 40  # of an integer; configs of tokenizers have 10**30 for "unlimited"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # may be one of a pair


Pairs = list[tuple[str, Any]]


def loads(
    text: str | bytes, unique_keys: Callable[[Pairs], dict[str, Any]] | None = None, allow_nan: bool = False
) -> Any:
    """Parses a JSON document.

    Args:
      text: the document.
      unique_keys: creates an object from its keys and values; by default a repeated key is a ValueError.
      allow_nan: whether numbers may be NaN or infinite, as Python's own writer writes them.

    Raises:
      ValueError: if the document is broken or has one of the values that the module refuses. The message has no
        location except line and column.
    """
    if isinstance(text, bytes):
        text = text.decode()  # UnicodeDecodeError is a ValueError
    try:
        value = json.loads(
            text,
            object_pairs_hook=unique_keys or _unique_keys,
            parse_constant=None if allow_nan else _refuse_constant,
            parse_float=None if allow_nan else _parse_float,
            parse_int=_parse_int,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it contains half of a surrogate pair") from None
    return value


@runtime_checkable
class ReadableFile(Protocol):
    """A path with a method that reads the file, such as `epath.Path`."""

    def read_bytes(self) -> bytes:
        """Returns the content of the file."""
        ...


def read_json(path: ReadableFile, advice: str = "remove the artefact's folder and run its job again") -> Any:
    """Reads a JSON file, by default one of an artefact.

    Raises:
      InputError: if `loads` refuses the file. The message has its path and ends with `advice`.
    """
    try:
        return loads(path.read_bytes())
    except (ValueError, IsADirectoryError) as error:
        raise InputError(f"{path}: not JSON ({error}); {advice}") from None


def _unique_keys(pairs: Pairs) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        key = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {key!r:.60} comes twice in one object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _parse_float(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"the number {digits:.20}... is too large")
    return value


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"the number {digits:.20}... is too large")
    return int(digits)
