"""Atomic file writes, local and remote (gs://).

A file is written under a temporary name beside its final one, flushed to disk and then renamed, so a file with its
final name is always complete. A killed process leaves at most a temporary file, which readers ignore and which
`remove_partial_files` deletes.
"""

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from etils import epath

from scotd_jax.errors import InputError

_SUFFIX = ".partial"
_DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT)


def is_local(path: epath.PathLike) -> bool:
    """Returns whether the path is local, unlike gs://..."""
    return "://" not in os.fspath(path)


@contextlib.contextmanager
def disk_full_as_input_error(path: epath.PathLike) -> Iterator[None]:
    """Converts the OSError of a full disk or quota to an InputError that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL_ERRORS:
            raise
        raise InputError(
            f"{path}: the disk is full, the file was not written ({error.strerror}). Nothing that was complete "
            "before is lost: free some space and run the same command again"
        ) from error


@contextlib.contextmanager
def atomic_write(path: epath.PathLike) -> Iterator[BinaryIO]:
    """Opens a binary file that is renamed to `path` when the block ends without an exception.

    Creates missing folders.

    Raises:
      InputError: if the disk is full. An existing file at `path` is left unchanged.
    """
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}{_SUFFIX}"
    with disk_full_as_input_error(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file  # pyrefly: ignore[invalid-yield]  (etils types every mode alike)
                file.flush()
                if is_local(path):
                    os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):  # keep the original error
                temporary.unlink()
            raise


def write_text(path: epath.Path, text: str) -> None:
    """Writes a file atomically. Raises InputError if the disk is full."""
    with atomic_write(path) as file:
        file.write(text.encode())


def remove_partial_files(folder: epath.PathLike, prefix: str = "") -> None:
    """Deletes temporary files of killed processes whose final names would begin with `prefix`.

    Call it only from the one process that writes such files: it would also delete temporary files that are in use.
    """
    folder = epath.Path(folder)
    if not folder.is_dir():
        return
    for path in list(folder.iterdir()):
        if path.name.startswith(f".{prefix}") and path.name.endswith(_SUFFIX):
            path.unlink()


def sync_folder(folder: epath.Path) -> None:
    """Flushes a folder, so that renames in it survive a power cut. Does nothing for remote folders."""
    if not is_local(folder):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
