"""Files of checkpoints. This is the only module that uses Orbax.

Errors of Orbax and TensorStore on damaged files become DamagedCheckpoint. Loaded arrays are compared with the record.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath
from orbax.checkpoint import utils
from orbax.checkpoint import v1 as ocp

from scotd_jax.errors import InputError
from scotd_jax.progress import log
from scotd_jax.training.checkpoint_record import CheckpointRecord, DamagedCheckpoint, check_arrays, leaves_by_path


def open_for_writing(folder: epath.Path, retention: Any) -> ocp.training.Checkpointer:
    """Opens the checkpoints in a folder with a preservation policy. Reads none of their files."""
    checkpointer = ocp.training.Checkpointer(
        folder,
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),  # the loop decides  # pyrefly: ignore[bad-argument-type]
        preservation_policy=retention,
        cleanup_tmp_directories=True,
        lightweight_initialize=True,
    )
    # Orbax 0.12 passes the step of every checkpoint to JAX, which derives from the last number after which update all
    # processes end. They would miss it, because `preemption.is_requested` counts the updates of all trainings.
    checkpointer._manager.reached_preemption = lambda step: False  # pyrefly: ignore[bad-assignment]
    return checkpointer


def committed_steps(folder: epath.Path) -> list[int]:
    """Returns the steps of the committed checkpoints in a folder, in order. Reads none of their files."""
    # Not `Checkpointer.checkpoints`, which reads metadata and scores of all of them and raises if one is damaged.
    return sorted(utils.checkpoint_steps(folder)) if folder.exists() else []


def saved_items(checkpoint: epath.Path, record: CheckpointRecord) -> Mapping[str, Any]:
    """Returns the shapes and dtypes of all stored arrays, by item.

    Raises:
      DamagedCheckpoint: if they are not those of the record, or cannot be read.
    """
    with _damage_named(checkpoint):
        metadata = ocp.checkpointables_metadata(checkpoint).metadata
        saved = {item: metadata[item] for item in ("params", "optimizer", "frozen") if item in metadata}
        found = {f"{item}/{path}": leaf for item in saved for path, leaf in leaves_by_path(saved[item])}
        shapes = {name: f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}" for name, leaf in found.items()}
    recorded = {name: text.rpartition(" ")[0] for name, text in (record.arrays or {}).items()}
    if record.arrays is not None and shapes != recorded:
        name = min(name for name in shapes | recorded if shapes.get(name) != recorded.get(name))
        raise DamagedCheckpoint(
            f"{checkpoint}: damaged, array {name} should be {recorded.get(name)}, found {shapes.get(name)}"
        )
    return saved


def load_items(checkpoint: epath.Path, record: CheckpointRecord, target: Any) -> dict[str, Any]:
    """Loads items and compares them with the record. Raises DamagedCheckpoint if they differ."""
    if record.arrays is None:
        log(f"{checkpoint}: saved by a version that recorded no digests, so it cannot be checked")
    with _damage_named(checkpoint):
        loaded = ocp.load_checkpointables(checkpoint, target)
    check_arrays(checkpoint, record, loaded)
    return loaded


@contextlib.contextmanager
def _damage_named(checkpoint: epath.Path) -> Iterator[None]:
    """Turns the errors of Orbax and TensorStore on files that are missing or altered into DamagedCheckpoint."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError, NotADirectoryError) as error:
        summary = " ".join(str(error).split())[:300]
        raise DamagedCheckpoint(f"{checkpoint}: damaged, it cannot be read ({summary})") from error


def check_shapes(found: Any, expected: Any, where: str, item: str) -> None:
    """Raises InputError for the first leaf whose shape differs or that only one of the trees has."""
    found_shapes, expected_shapes = _shapes(found), _shapes(expected)
    for name in sorted(found_shapes.keys() | expected_shapes.keys()):
        saved_shape, config_shape = found_shapes.get(name), expected_shapes.get(name)
        if saved_shape != config_shape:
            kind = "model" if item == "params" else "optimizer"
            raise InputError(
                f"{where}: checkpoint of another {kind}: {name} is {_shape_text(saved_shape)} there and "
                f"{_shape_text(config_shape)} in this config; restore the old config, or train again from the start "
                "with --overwrite=train"
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf by its path."""
    return {path: tuple(leaf.shape) for path, leaf in leaves_by_path(tree)}


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))
