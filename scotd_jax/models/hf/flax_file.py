"""Opens the msgpack files of Flax without loading them.

`flax.serialization` writes a nested map. Its leaves are extension objects that hold shape, dtype name and bytes of an
array; an array of more than 1 GiB is a map with the chunks of the flattened array. Flax's own reader needs twice the
size of the file; this one reads the headers, skips the data, and maps the bytes of one tensor when it is read.
"""

import contextlib
import functools
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, TypeVar

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
import numpy as np

from scotd_jax.errors import InputError
from scotd_jax.models.hf.stored_tensor import StoredTensor

_CHUNKED = "__msgpack_chunked_array__"
_MAX_DEPTH = 32  # of nested maps; the modules of models are nested less deep
_ARRAY, _SCALAR = 1, 3  # Flax's types of extension objects
_MAX_TEXT = 2**16  # bytes of a name
_DTYPES = {
    name: np.dtype(name)
    for name in (
        *("float16", "bfloat16", "float32", "float64", "bool"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    )
}
# Kinds of msgpack objects by their first byte. The length of an object, or the value of an int, is
#   in the byte itself: _SHORT (kind, first and last such byte),
#   implied by the byte: _FIXED (kind, length or value), or
#   in the bytes that follow: _SIZED (kind, number of these bytes).
_SHORT = (("int", 0x00, 0x7F), ("map", 0x80, 0x8F), ("array", 0x90, 0x9F), ("str", 0xA0, 0xBF))
_FIXED = {0xC2: ("int", 0), 0xC3: ("int", 1), **{0xD4 + i: ("ext", 1 << i) for i in range(5)}}
_SIZED = {
    **{0xC4 + i: ("bin", 1 << i) for i in range(3)},
    **{0xC7 + i: ("ext", 1 << i) for i in range(3)},
    **{0xCC + i: ("int", 1 << i) for i in range(4)},
    **{0xD9 + i: ("str", 1 << i) for i in range(3)},
    **{0xDC + i: ("array", 2 << i) for i in range(2)},
    **{0xDE + i: ("map", 2 << i) for i in range(2)},
}
Element = TypeVar("Element")


class _StoredArray(NamedTuple):
    """Shape, dtype and position (in bytes) of an array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int


@contextlib.contextmanager
def open_flax(file: pathlib.Path) -> Iterator[dict[str, StoredTensor]]:
    """Yields the tensors of a file by name, such as "model/norm/weight".

    Raises:
      InputError: if the file is damaged or of another kind. The caller adds the name of the file to the message.
    """
    try:
        with file.open("rb") as stream:
            tree = _read_node(stream, file.stat().st_size)
            if stream.read(1):
                raise ValueError("more data after the end")
        tensors = dict(_tensors(file, tree, ""))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"not a complete msgpack file of Flax ({error})") from error
    yield tensors


def _tensors(file: pathlib.Path, node: Any, name: str) -> Iterator[tuple[str, StoredTensor]]:
    if isinstance(node, _StoredArray):
        yield name, _tensor(file, [node], node.shape)
    elif not isinstance(node, Mapping):
        raise ValueError(f"{name!r} is no array")
    elif _CHUNKED in node:
        yield name, _tensor(file, _in_order(node.get("chunks"), _StoredArray), _in_order(node.get("shape"), int))
    else:
        for key, child in node.items():
            yield from _tensors(file, child, f"{name}/{key}" if name else key)


def _tensor(file: pathlib.Path, chunks: Sequence[_StoredArray], shape: Sequence[int]) -> StoredTensor:
    if sum(math.prod(chunk.shape) for chunk in chunks) != math.prod(shape) or len({c.dtype for c in chunks}) != 1:
        raise ValueError(f"chunks {[chunk.shape for chunk in chunks]} of an array of shape {tuple(shape)}")
    return StoredTensor(tuple(shape), chunks[0].dtype.name, functools.partial(_read_mapped, file, chunks, shape))


def _in_order(node: Any, kind: type[Element]) -> list[Element]:
    """Returns the elements of a list that Flax stores as a map with the keys "0", "1", ..."""
    found = [node.get(str(i)) for i in range(len(node))] if isinstance(node, Mapping) else []
    elements = [element for element in found if isinstance(element, kind)]
    if not elements or len(elements) != len(found):
        raise ValueError("a chunked array without a list of chunks")
    return elements


def _read_mapped(
    file: pathlib.Path, chunks: Sequence[_StoredArray], shape: Sequence[int], index: tuple[slice, ...]
) -> np.ndarray:
    """Maps an array into memory for as long as the returned view is used; chunks are copied into one array."""
    flat = [np.memmap(file, c.dtype, "r", c.offset, (math.prod(c.shape),)) for c in chunks]
    return (flat[0] if len(flat) == 1 else np.concatenate(flat)).reshape(shape)[index]


def _read_node(stream: BinaryIO, size: int, depth: int = 0) -> Any:
    """Reads a nested map with arrays and integers as leaves, and skips the data of arrays."""
    kind, length = _read_header(stream)
    if kind == "int":
        return length
    if kind == "ext":
        return _read_array(stream, size, length)
    if kind != "map" or depth == _MAX_DEPTH:
        raise ValueError(f"unexpected {kind} before byte {stream.tell()}")
    node = {}
    for _ in range(length):
        key = _read_text(stream)
        if key in node:
            raise ValueError(f"the name {key!r} is repeated")
        node[key] = _read_node(stream, size, depth + 1)
    return node


def _read_array(stream: BinaryIO, size: int, length: int) -> _StoredArray:
    """Reads the headers of an extension object of `length` bytes and skips its data."""
    (kind,) = _read_bytes(stream, 1)
    start = stream.tell()
    if kind not in (_ARRAY, _SCALAR) or _read_length(stream, "array") != 3:
        raise ValueError(f"no array at byte {start}")
    shape = tuple(_read_length(stream, "int") for _ in range(_read_length(stream, "array")))
    dtype = _read_text(stream)
    num_bytes = _read_length(stream, "bin")
    offset = stream.tell()
    if dtype not in _DTYPES:
        raise ValueError(f"an array of type {dtype!r} at byte {start}")
    if num_bytes != math.prod(shape) * _DTYPES[dtype].itemsize or offset + num_bytes != start + length:
        raise ValueError(f"an array of {dtype} {shape} at byte {start} has {num_bytes} bytes")
    if offset + num_bytes > size:
        raise ValueError(f"it ends within an array of {num_bytes} bytes")
    stream.seek(num_bytes, 1)
    return _StoredArray(shape, _DTYPES[dtype], offset)


def _read_text(stream: BinaryIO) -> str:
    return _read_bytes(stream, _read_length(stream, "str")).decode()


def _read_length(stream: BinaryIO, expected: str) -> int:
    kind, length = _read_header(stream)
    if kind != expected:
        raise ValueError(f"expected {expected}, found {kind} before byte {stream.tell()}")
    return length


def _read_header(stream: BinaryIO) -> tuple[str, int]:
    """Returns the kind of the next object, and the value of an integer or else the length (bytes or elements)."""
    (code,) = _read_bytes(stream, 1)
    if code in _SIZED:
        kind, size = _SIZED[code]
        return kind, int.from_bytes(_read_bytes(stream, size), "big")
    for kind, first, last in _SHORT:
        if first <= code <= last:
            return kind, code - first
    if code in _FIXED:
        return _FIXED[code]
    raise ValueError(f"unexpected byte {code:#x} before byte {stream.tell()}")


def _read_bytes(stream: BinaryIO, count: int) -> bytes:
    if count > _MAX_TEXT:
        raise ValueError(f"a name of {count} bytes before byte {stream.tell()}")
    data = stream.read(count)
    if len(data) != count:
        raise ValueError(f"it ends at byte {stream.tell()}")
    return data
