"""TFRecord files with random access: the standard framing, and an index file beside each of them.

Records are framed as in TensorFlow, so `tf.data` reads the files:

    uint64 length | uint32 masked crc32c of the length | data | uint32 masked crc32c of the data      (little endian)

The index of FILE is FILE.index: one line of JSON, then `records + 1` little-endian uint64, the byte at which each
record begins and, last, the size of the file. The line holds `format`, `records`, `bytes` (size of FILE) and
`crc32c` (of the offsets). The index detects a truncated file when it is opened, and reaches any record with one read.
The checksums of a record are verified whenever it is read.
"""

import hashlib
import json
import os
import struct
import weakref
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import google_crc32c
import numpy as np
from etils import epath

from scotd_jax.atomic import atomic_write, is_local
from scotd_jax.errors import InputError
from scotd_jax.strict_json import loads

FORMAT = "scotd_jax.tfrecord_index.1"
_HEADER = struct.Struct("<QI")  # length of the data, and masked checksum of this length
_FOOTER = struct.Struct("<I")  # masked checksum
_FRAME = _HEADER.size + _FOOTER.size
_REBUILD = "build the corpus again"


def masked_crc(data: bytes) -> int:
    """Returns the CRC-32C of `data`, rotated and shifted as TFRecord stores it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """Returns `data` framed as one TFRecord."""
    length = struct.pack("<Q", len(data))
    return length + _FOOTER.pack(masked_crc(length)) + data + _FOOTER.pack(masked_crc(data))


def index_path(path: epath.PathLike) -> epath.Path:
    """Returns the path of the index of the TFRecord file `path`."""
    path = epath.Path(path)
    return path.parent / f"{path.name}.index"


class TFRecordWriter:
    """Writes one TFRecord file and its index; both appear when the `with` block ends without an exception.

    Attributes:
      path: the TFRecord file.
      bytes: its size so far.
      records: number of records so far.
      sha256: digest of the file so far.

    Raises:
      InputError: if the disk is full.
    """

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)
        self.bytes = 0
        self._offsets = [0]
        self._digest = hashlib.sha256()
        self._block: AbstractContextManager[Any] = atomic_write(self.path)

    def __enter__(self) -> "TFRecordWriter":
        self._file = self._block.__enter__()
        return self

    def write(self, data: bytes) -> None:
        """Appends one record."""
        framed = frame(data)
        self._file.write(framed)
        self._digest.update(framed)
        self.bytes += len(framed)
        self._offsets.append(self.bytes)

    def __exit__(self, *exception: Any) -> None:
        self._block.__exit__(*exception)
        if exception[0] is None:
            write_index(self.path, self._offsets)

    @property
    def records(self) -> int:
        """Number of records written so far."""
        return len(self._offsets) - 1

    @property
    def sha256(self) -> str:
        """SHA-256 of the file so far."""
        return self._digest.hexdigest()


def write_index(path: epath.PathLike, offsets: list[int]) -> None:
    """Writes the index of the TFRecord file `path`; `offsets` are the start of each record and the file size."""
    head = {"format": FORMAT, "records": len(offsets) - 1, "bytes": offsets[-1]}
    write_offsets(index_path(path), offsets, head)


def read_index(path: epath.PathLike) -> np.ndarray:
    """Reads the index of the TFRecord file `path`.

    Returns:
      uint64[records + 1]: the byte at which each record begins and, last, the size of the file.

    Raises:
      InputError: if the index is missing or damaged, or the file does not have the size that the index records.
    """
    path, index = epath.Path(path), index_path(path)
    head, offsets = read_offsets(index, FORMAT)
    if type(head.get("bytes")) is not int or (offsets[1:] < offsets[:-1]).any() or offsets[-1:] != [head["bytes"]]:
        raise InputError(f"{index}: damaged, its offsets do not increase to the size of the file: {_REBUILD}")
    if len(offsets) != head["records"] + 1:
        raise InputError(f"{index}: damaged, expected {head['records'] + 1} offsets, found {len(offsets)}: {_REBUILD}")
    size = path.stat().length if path.exists() else -1
    if size != head["bytes"]:
        found = "there is no such file" if size < 0 else f"found {size} bytes"
        last = int(np.searchsorted(offsets, max(size, 0), side="right")) - 1
        cut = f", cut in record {last}" if 0 <= size < head["bytes"] else ""
        raise InputError(f"{path}: expected {head['bytes']} bytes (see its index), {found}{cut}: {_REBUILD}")
    return offsets


def write_offsets(path: epath.PathLike, offsets: list[int], head: Mapping[str, Any]) -> None:
    """Writes `head` as one line of JSON, with the `crc32c` of the rest, and `offsets` as little-endian uint64."""
    body = np.asarray(offsets, "<u8").tobytes()
    with atomic_write(path) as file:
        file.write(json.dumps({**head, "crc32c": google_crc32c.value(body)}).encode() + b"\n" + body)


def read_offsets(path: epath.PathLike, kind: str) -> tuple[dict[str, Any], np.ndarray]:
    """Reads a file that `write_offsets` wrote.

    Args:
      path: the file.
      kind: expected `format` of its head.

    Returns:
      The head, and the offsets as uint64.

    Raises:
      InputError: if the file is missing, of another format or damaged.
    """
    path = epath.Path(path)
    if not path.exists():
        indexed = path.name.rpartition(".")[0]
        raise InputError(f"{path}: no such file; it is an index of {indexed}: {_REBUILD}")
    line, _, body = path.read_bytes().partition(b"\n")
    head: dict[str, Any] = {}
    try:
        head = loads(line)
        known = head["format"] == kind and all(type(head[key]) is int for key in ("records", "crc32c"))
    except (ValueError, TypeError, KeyError):
        known = False
    if not known:
        raise InputError(f"{path}: not an index of format {kind}, it begins with {line[:60]!r}: {_REBUILD}")
    if len(body) % 8 or google_crc32c.value(body) != head.get("crc32c"):
        raise InputError(f"{path}: damaged, its offsets do not match their checksum: {_REBUILD}")
    return head, np.frombuffer(body, "<u8")


class TFRecordShard:
    """Random access to the records of one TFRecord file, verified as they are read. Safe to share between threads."""

    def __init__(self, path: epath.PathLike):
        """Opens a file that has an index.

        Raises:
          InputError: as `read_index` does.
        """
        self.path = epath.Path(path)
        self._offsets = read_index(path)
        self._descriptor = -1
        if is_local(self.path):
            self._descriptor = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return TFRecordShard, (os.fspath(self.path),)

    def __getitem__(self, record: int) -> bytes:
        """Reads the data of one record.

        Raises:
          InputError: if its bytes differ from those that were written.
        """
        if not 0 <= record < len(self):
            raise IndexError(f"record {record} of {len(self)}")
        begin, end = int(self._offsets[record]), int(self._offsets[record + 1])
        return _unframe(self._read(begin, end - begin), f"{self.path} record {record}")

    def _read(self, begin: int, size: int) -> bytes:
        if self._descriptor >= 0:
            return os.pread(self._descriptor, size, begin)  # no shared file position, hence no lock
        with self.path.open("rb") as file:
            file.seek(begin)
            return file.read(size)


def _length(head: bytes, where: str) -> int:
    if len(head) < _HEADER.size:
        raise InputError(f"{where}: the file ends in the middle of the record: {_REBUILD}")
    length, crc = _HEADER.unpack(head)
    if crc != masked_crc(head[:8]):
        raise InputError(f"{where}: the checksum of its length is wrong, the file is damaged: {_REBUILD}")
    return length


def _unframe(framed: bytes, where: str) -> bytes:
    length = _length(framed[: _HEADER.size], where)
    if len(framed) != length + _FRAME:
        raise InputError(f"{where}: expected {length} bytes of data, found {len(framed) - _FRAME}: {_REBUILD}")
    data = framed[_HEADER.size : -_FOOTER.size]
    if _FOOTER.unpack(framed[-_FOOTER.size :])[0] != masked_crc(data):
        raise InputError(f"{where}: the checksum of its data is wrong, the file is damaged: {_REBUILD}")
    return data
