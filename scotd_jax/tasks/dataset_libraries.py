"""Rows from `datasets` and `tensorflow-datasets`, as plain Python values in a fixed order.

NAME in a path "datasets:NAME" or "tfds:NAME" is a dataset on the network or a local folder: for `datasets` a folder of
data files or one written by `save_to_disk`, for `tfds` a folder that `builder_from_directory` reads. A configuration
follows after a slash: "datasets:allenai/ai2_arc/ARC-Easy" (names on the Hub have two parts), "tfds:ai2_arc/ARC-Easy".
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.tasks.row_files import LocatedRow

RowReader = Callable[[], Iterable[LocatedRow]]
RowReaders = dict[str, RowReader]  # by split


def library_source(path: str, where: str) -> RowReaders | None:
    """Returns one row reader per split of "datasets:NAME" or "tfds:NAME"; None for any other path.

    Args:
      path: the path of a task.
      where: its config key, for messages.

    Raises:
      InputError: if the dataset cannot be loaded; the message contains the error of the library.
    """
    library, _, name = path.partition(":")
    if library not in ("datasets", "tfds"):
        return None
    if not name:
        raise InputError(f"{where}: {path!r} names no dataset; expected {library}:NAME or {library}:FOLDER")
    try:
        found = _datasets(name) if library == "datasets" else _tfds(name)
    except ImportError as error:
        raise InputError(f"{where}: {path}: {error}; install it (pip install {error.name})") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: {path} cannot be loaded: {type(error).__name__}: {error}") from error
    return {split: (lambda split=split: _located(found[split], f"{path} split {split}")) for split in found}


def _located(rows: Iterable[Any], where: str) -> Iterator[LocatedRow]:
    for i, row in enumerate(rows, start=1):
        yield f"{where} row {i}", plain_row(row)


def plain_row(value: Any) -> Any:
    """Converts bytes to text and numpy scalars and arrays to numbers and lists, recursively."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, Mapping):
        return {str(key): plain_row(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_row(item) for item in value]
    return plain_row(value.tolist()) if hasattr(value, "tolist") else value


def _datasets(name: str) -> Any:
    import datasets

    folder, configuration = _local(name)
    if folder is None:
        parts = name.split("/")
        return datasets.load_dataset("/".join(parts[:2]), "/".join(parts[2:]) or None)
    if any((folder / file).exists() for file in ("dataset_dict.json", "state.json")):
        saved = datasets.load_from_disk(str(folder))
        return saved if isinstance(saved, dict) else {str(saved.split or "train"): saved}
    return datasets.load_dataset(str(folder), configuration)


def _tfds(name: str) -> Mapping[str, Iterable[Any]]:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    if tf.config.list_physical_devices("GPU"):
        tf.config.set_visible_devices([], "GPU")  # TensorFlow would reserve the memory that JAX needs
    if epath.Path(name).is_dir():
        builder = tfds.builder_from_directory(name)
    else:
        builder = tfds.builder(name)
        builder.download_and_prepare()
    # One shard after another; the default interleaves them.
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    return {
        split: tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False, read_config=config))
        for split in builder.info.splits
    }


def _local(name: str) -> tuple[epath.Path | None, str | None]:
    """Splits NAME into an existing folder (or None) and the configuration that follows it (or None)."""
    path = epath.Path(name)
    if path.is_dir():
        return path, None
    if "/" in name and path.parent.is_dir():
        return path.parent, path.name
    return None, None
