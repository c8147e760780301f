"""Local access to files that may be remote (gs://, the Hugging Face Hub), and imports of Python files of the user.

The libraries tokenizers and safetensors use local files only. `local_copy` provides a local path for reading a file or
folder. `staged_folder` provides a local folder for writing, whose files are renamed into the target one by one at the
end. `load_python_file` imports a file of the user, such as a custom task.
"""

import contextlib
import importlib.util
import os
import pathlib
import shutil
import tempfile
from collections.abc import Collection, Iterator
from types import ModuleType

from etils import epath

from scotd_jax.atomic import is_local
from scotd_jax.errors import InputError
from scotd_jax.hub.hub_files import FileSelection, fetch, list_files, parse_hub_path

_STAGING = ".staging-"


@contextlib.contextmanager
def local_copy(path: epath.PathLike, select: FileSelection = lambda names: names) -> Iterator[pathlib.Path]:
    """Yields a local path with the contents of `path`.

    This is `path` itself if it is local, the folder in the cache for a name on the Hub, else a temporary copy.

    Args:
      path: a file or folder, local or gs://, or a name on the Hub (hub/hub_files.py).
      select: returns the names of the files to copy from a folder, given all of them. Subfolders are never copied.

    Raises:
      InputError: if `path` does not exist, or `select` raises it.
    """
    if (model := parse_hub_path(path)) is not None:
        yield fetch(model, select)
        return
    source = epath.Path(path)
    if not source.exists():
        raise InputError(
            f"{path}: no such file or folder; a model is a local or gs:// folder, or a name on the Hugging Face Hub, "
            "OWNER/NAME or OWNER/NAME@REVISION"
        )
    if is_local(source):
        yield pathlib.Path(source)
        return
    with tempfile.TemporaryDirectory() as scratch:
        target = pathlib.Path(scratch) / source.name
        if source.is_dir():
            target.mkdir()
            for name in _select(source, select):
                (source / name).copy(target / name)
        else:
            source.copy(target)
        yield target


def _select(folder: epath.Path, select: FileSelection) -> Collection[str]:
    try:
        return select(file_names(folder))
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def file_names(folder: epath.PathLike) -> Collection[str]:
    """Returns the names of the files in a folder, local or gs://, or of a model on the Hub, which need not be local."""
    if (model := parse_hub_path(folder)) is not None:
        return list_files(model)
    return [item.name for item in epath.Path(folder).iterdir() if not item.is_dir()]


@contextlib.contextmanager
def staged_folder(folder: epath.PathLike) -> Iterator[pathlib.Path]:
    """Yields a local staging folder, whose files are renamed into `folder` when the block ends without an exception.

    Creates `folder` if needed; its other files stay, and an exception leaves it unchanged. Staging folders of killed
    processes are deleted, so only one process at a time may write to a folder.
    """
    target = epath.Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    local_target = os.fspath(target) if is_local(target) else None
    if local_target is not None:
        for leftover in pathlib.Path(local_target).glob(f"{_STAGING}*"):
            shutil.rmtree(leftover)
    staging = pathlib.Path(tempfile.mkdtemp(prefix=_STAGING, dir=local_target))
    try:
        yield staging
        for item in sorted(staging.iterdir()):
            if local_target is None:
                remote_part = target / f".{item.name}.part"
                epath.Path(item).copy(remote_part, overwrite=True)
                remote_part.replace(target / item.name)
            else:
                _flush(item)
                os.replace(item, os.path.join(local_target, item.name))
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _flush(file: pathlib.Path) -> None:
    """Flushes a file before its rename, so that a power cut cannot leave an empty file under the final name."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_python_file(path: str, where: str) -> ModuleType:
    """Imports a Python file of the user by its path. An error inside the file keeps its traceback.

    Args:
      path: the file.
      where: the config key that names it, with which error messages begin.

    Raises:
      InputError: if there is no such file.
    """
    file = epath.Path(path)
    if not file.exists():
        raise InputError(f"{where}: {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"scotd_jax_user_{file.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{where}: {path}: expected a Python file, whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
