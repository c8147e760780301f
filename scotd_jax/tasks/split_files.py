"""Files of a task's splits: those that the config names, or the official ones, or every data file of the folder."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.tasks.dataset_libraries import RowReaders
from scotd_jax.tasks.row_files import LocatedRow, split_name


def split_readers(
    folder: epath.Path,
    official: Mapping[str, Sequence[str]],
    chosen: Any,
    read: Callable[[epath.Path], Iterator[LocatedRow]],
    here: str,
) -> RowReaders:
    """Returns one row reader per split.

    Args:
      folder: folder of the files.
      official: candidate file names per split, in order of preference; if empty, every data file is a split.
      chosen: the file name per split that the config names; None for the official ones.
      read: reads the rows of one file.
      here: config path of the task, for messages.

    Raises:
      InputError: if a chosen file or all official files are missing, or two files belong to one split.
    """
    if chosen is not None:
        found = _chosen_files(folder, chosen, here)
    elif official:
        names_by_split = {
            split: [file for name in names for file in (name, f"{name}.gz")] for split, names in official.items()
        }
        found = {
            split: next(filter(None, (_matches(folder, name) for name in names)), [])
            for split, names in names_by_split.items()
        }
        found = {split: paths for split, paths in found.items() if paths}
    else:
        found = _all_files(folder, here)
    if not found:
        names = ", ".join(name for names in official.values() for name in names) or "SPLIT.jsonl, .json, .csv or .tsv"
        raise InputError(f"{here}.path: {folder} holds none of the files {names}; set options.files to name yours")
    return {split: (lambda paths=paths: itertools.chain(*map(read, paths))) for split, paths in found.items()}


def _chosen_files(folder: epath.Path, chosen: Any, here: str) -> dict[str, list[epath.Path]]:
    if not isinstance(chosen, Mapping) or not all(isinstance(file, str) for file in chosen.values()):
        raise InputError(f"{here}.options.files: expected a file name per split, found {chosen!r}")
    found = {split: _matches(folder, file) for split, file in chosen.items()}
    if missing := [split for split, paths in found.items() if not paths]:
        raise InputError(f"{here}.options.files: {folder / chosen[missing[0]]}: no such file")
    return found


def _all_files(folder: epath.Path, here: str) -> dict[str, list[epath.Path]]:
    found: dict[str, list[epath.Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if split := split_name(path):
            if split in found:
                raise InputError(f"{here}.path: {found[split][0]} and {path} are one split; set options.files")
            found[split] = [path]
    return found


def _matches(folder: epath.Path, name: str) -> list[epath.Path]:
    if "*" in name:
        return sorted(folder.glob(name))
    return [folder / name] if (folder / name).exists() else []
