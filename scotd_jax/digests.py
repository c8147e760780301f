"""Digests of plain data and of files, so that a missing, cut, altered or replaced file is detected when it is read.

A file is described by its size and its SHA-256. Above `SAMPLED_ABOVE` bytes it also has a digest of evenly spaced
blocks, which takes a fraction of a second for a file of any size. The quick check compares size and blocks of such
files, and the whole content of smaller ones; the full check compares the whole content of all files.
"""

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from scotd_jax.errors import InputError

SAMPLED_ABOVE = 64 * 2**20  # bytes; SHA-256 takes 0.1 s for so many (560 MiB/s on a core without SHA instructions)
SAMPLES, SAMPLE_BYTES = 64, 2**16  # blocks of the quick check, the first and the last one included
_READ_BYTES = 2**20
_THREADS = 8  # hashlib releases the interpreter lock, and buckets answer several requests at once

FileDescription = Mapping[str, Any]  # {"bytes", "sha256"}, and "sampled" above SAMPLED_ABOVE bytes


def digest(value: Any) -> str:
    """Returns a short hash of plain data, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def describe_file(path: epath.PathLike) -> dict[str, Any]:
    """Returns size and digests of a file."""
    path = epath.Path(path)
    described = {"bytes": path.stat().length, "sha256": file_digest(path)}
    return described | ({"sampled": _sampled(path, described["bytes"])} if described["bytes"] > SAMPLED_ABOVE else {})


def describe_files(folder: epath.Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns the descriptions of files of a folder by their relative path."""
    names = sorted(names)
    return dict(zip(names, _in_threads(lambda name: describe_file(folder / name), names), strict=True))


def files_below(folder: epath.Path) -> Iterator[str]:
    """Yields the relative paths of all files below a folder; none if it does not exist."""
    if not folder.exists():
        return
    for root, _, names in folder.walk():
        inside = os.path.relpath(_without_scheme(root), _without_scheme(folder))
        yield from (os.path.normpath(os.path.join(inside, name)) for name in names)


def _without_scheme(path: epath.PathLike) -> str:
    """A path in a bucket without gs://, which the paths that `walk` yields lack (etils 1.15 with fsspec)."""
    text = os.fspath(path)
    return text.partition("://")[2] or text


def find_damage(folder: epath.Path, described: Mapping[str, FileDescription], full: bool) -> dict[str, str]:
    """Compares files with their descriptions.

    Args:
      folder: the folder of the files.
      described: the descriptions by relative path.
      full: whether to read large files completely.

    Returns:
      For every file that differs, how it differs.
    """
    found = _in_threads(lambda item: _compare(folder / item[0], item[1], full), described.items())
    return {name: problem for name, problem in zip(described, found, strict=True) if problem}


def file_digest(path: epath.PathLike) -> str:
    """Returns the SHA-256 of a file's bytes. Raises InputError if there is no such file."""
    path = epath.Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            sha256.update(block)
    return sha256.hexdigest()


def _compare(path: epath.Path, described: FileDescription, full: bool) -> str:
    """Returns how a file differs from its description, or "" if it does not."""
    if not path.is_file():
        return "is missing"
    size = path.stat().length
    if size != described["bytes"]:
        return f"has {size:,} bytes instead of {described['bytes']:,}"
    sampled = described.get("sampled")
    same = file_digest(path) == described["sha256"] if full or not sampled else _sampled(path, size) == sampled
    return "" if same else "has other content than the job wrote"


def _sampled(path: epath.Path, size: int) -> str:
    """Digest of evenly spaced blocks of a file of `size` bytes."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        for i in range(SAMPLES):
            file.seek((size - SAMPLE_BYTES) * i // (SAMPLES - 1))
            sha256.update(file.read(SAMPLE_BYTES))
    return sha256.hexdigest()


def _in_threads(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(function, items))
