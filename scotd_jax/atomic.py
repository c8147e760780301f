"""Files that appear complete or not at all, locally and in a bucket.

A file is written under a temporary name beside its final one, flushed to the disk and then renamed. Whoever sees the
final name sees every byte. A process that is killed leaves at most a temporary file, which no reader looks at and
which `remove_partial_files` removes.
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
_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_local(path: epath.PathLike) -> bool:
    """Whether `path` is on a file system of this machine (and not gs://)."""
    return "://" not in os.fspath(path)


@contextlib.contextmanager
def disk_full_as_input_error(path: epath.PathLike) -> Iterator[None]:
    """Raises InputError, which names `path`, in place of the OSError of a full disk or quota."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise InputError(
            f"{path}: the disk is full, the file was not written ({error.strerror}). Nothing that was complete "
            "before is lost: free some space and give the same command again"
        ) from error


@contextlib.contextmanager
def atomic_write(path: epath.PathLike) -> Iterator[BinaryIO]:
    """A binary file to write to; it gets its name `path` when the block ends without an exception.

    The folder is made where it is missing. Raises InputError when the disk is full; the file that had the name
    before is then untouched, and so is every other file.
    """
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}{_SUFFIX}"
    with disk_full_as_input_error(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
                file.flush()
                if is_local(path):
                    os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):  # the error that brought us here matters more
                temporary.unlink()
            raise


def remove_partial_files(folder: epath.PathLike, prefix: str = "") -> None:
    """Removes the temporary files of killed writers whose final names begin with `prefix`.

    Only for whoever is alone in writing such names.
    """
    folder = epath.Path(folder)
    if not folder.is_dir():
        return
    for path in list(folder.iterdir()):
        if path.name.startswith(f".{prefix}") and path.name.endswith(_SUFFIX):
            path.unlink()


def sync_folder(folder: epath.Path) -> None:
    """Makes renames in `folder` survive a power cut; a rename is only an entry of the folder. A bucket needs none."""
    if not is_local(folder):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
