"""Checkpoints: parameters, optimizer state and data iterator state, committed together or not at all.

This is the only file that uses Orbax. A checkpoint has the items `params` and `optimizer` (its state and the number of
updates), so that parameters can be loaded without the optimizer, and `frozen` if some parameters are frozen
(trainable.py). Every checkpoint is complete: a run resumes from it bit for bit, and `load_params` returns plain model
parameters also for LoRA. The state of the data iterator, a few numbers, is in the metadata. It is the same on every
host, so a run can resume with another number of hosts and another mesh.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from scotd_jax.errors import InputError
from scotd_jax.models.api import Params
from scotd_jax.training.step import TrainState
from scotd_jax.training.trainable import combine, partition_shardings

BEST_METRIC = "dev_accuracy"  # chooses the best checkpoint; larger is better


class Checkpoints:
    """The checkpoints of one run: the last few and the best one. A context manager.

    Args:
      folder: folder of the checkpoints.
      max_to_keep: number of latest checkpoints to keep, besides the best one.
    """

    def __init__(self, folder: epath.PathLike, max_to_keep: int = 2):
        self._folder = epath.Path(folder)
        self._checkpointer = _open(self._folder, max_to_keep, writable=True)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def latest(self) -> int | None:
        """Step of the last committed checkpoint."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: TrainState, data_state: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Copies `state` off the devices and returns; the files are written in the background during the next updates.

        Args:
          step: number of updates made.
          state: the training state.
          data_state: `get_state()` of the data iterator, taken before it is advanced for the next update.
          metrics: evaluation scores; the best checkpoint is chosen by their `dev_accuracy`.
        """
        self._checkpointer.save_checkpointables_async(
            step,
            _items(state),
            metrics=dict(metrics) or None,
            custom_metadata={"data": json.dumps(data_state)},
        )

    def restore(self, abstract: TrainState) -> tuple[TrainState, Any]:
        """Restores the last checkpoint.

        Args:
          abstract: shapes, dtypes and shardings of the state.

        Returns:
          The training state and the state of the data iterator.

        Raises:
          InputError: if the checkpoint belongs to another model or optimizer.
        """
        step = self.latest
        target = _items(abstract)
        found = self._checkpointer.checkpointables_metadata(step)
        for item in target:
            _check_shapes(found.metadata.get(item, {}), target[item], f"{self._folder / str(step)}", item)
        loaded = self._checkpointer.load_checkpointables(step, target)
        optimizer = loaded["optimizer"]
        state = TrainState(optimizer["step"], loaded["params"], optimizer["opt_state"], loaded.get("frozen"))
        return state, json.loads(found.custom_metadata["data"])  # pyrefly: ignore[bad-index, bad-argument-type, unsupported-operation]

    def close(self) -> None:
        """Waits until all files are written. Raises the error if writing has failed, for example on a full disk."""
        self._checkpointer.close()


def load_params(
    folder: epath.PathLike, abstract: Params, which: Literal["best", "last"] = "best"
) -> tuple[Params, int]:
    """Loads model parameters from a checkpoint, with LoRA matrices merged into their kernels.

    Args:
      folder: folder of the checkpoints.
      abstract: shapes and, optionally, shardings of the model parameters; leaves without a sharding are loaded to the
        first local device.
      which: the best or the last checkpoint. If none has a `dev_accuracy`, the last one is the best.

    Returns:
      The parameters and the step of the checkpoint.

    Raises:
      InputError: if there is no checkpoint or it belongs to another model.
    """
    folder = epath.Path(folder)
    if not folder.exists():
        raise InputError(f"{folder}: there are no checkpoints here; run the job 'train' first")
    with _open(folder, 1, writable=False) as checkpointer:
        steps = checkpointer.checkpoints
        if not steps:
            raise InputError(f"{folder}: no finished checkpoint here; run the job 'train' first")
        chosen = steps[best_index([step.metrics for step in steps])] if which == "best" else steps[-1]
        local = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda leaf: getattr(leaf, "sharding", None) or local, abstract)
        saved = _parameter_items(checkpointer.checkpointables_metadata(chosen.step).metadata)
        combined = jax.eval_shape(combine, saved["params"], saved.get("frozen"))
        _check_shapes(combined, abstract, f"{folder / str(chosen.step)}", "params")
        target = {item: _with_shardings(tree, partition_shardings(tree, shardings)) for item, tree in saved.items()}
        loaded = checkpointer.load_checkpointables(chosen.step, target)
    if "frozen" not in loaded:
        return loaded["params"], chosen.step
    return jax.jit(combine, out_shardings=shardings)(loaded["params"], loaded["frozen"]), chosen.step


def best_step(folder: epath.PathLike) -> dict[str, int | float]:
    """Returns `step` and metrics of the best checkpoint in `folder`, and `last_step`."""
    with _open(epath.Path(folder), 1, writable=False) as checkpointer:
        steps = checkpointer.checkpoints
        best = steps[best_index([step.metrics for step in steps])]
        return {"step": best.step, "last_step": steps[-1].step, **(best.metrics or {})}


def latest_step(folder: epath.PathLike) -> int:
    """Returns the step of the last committed checkpoint in `folder`; 0 if there is none."""
    if not epath.Path(folder).exists():
        return 0
    with _open(epath.Path(folder), 1, writable=False) as checkpointer:
        return 0 if checkpointer.latest is None else checkpointer.latest.step


def best_index(metrics: Sequence[Mapping[str, float] | None]) -> int:
    """Index of the largest `dev_accuracy`, the later one on ties; the last index if no entry has one."""
    scores = [-1.0 if entry is None else float(entry.get(BEST_METRIC, -1.0)) for entry in metrics]
    return max(range(len(scores)), key=lambda i: (scores[i], i))


class _KeepLastAndBest:
    """Orbax preservation policy: the last `max_to_keep` checkpoints and the best one."""

    def __init__(self, max_to_keep: int):
        self._max_to_keep = max(max_to_keep, 1)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        best = best_index([step.metrics for step in checkpoints]) if checkpoints else 0
        return [i == best or i >= len(checkpoints) - self._max_to_keep for i in range(len(checkpoints))]


def _open(folder: epath.Path, max_to_keep: int, writable: bool) -> ocp.training.Checkpointer:
    return ocp.training.Checkpointer(
        folder,
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),  # the loop decides  # pyrefly: ignore[bad-argument-type]
        preservation_policy=_KeepLastAndBest(max_to_keep),
        cleanup_tmp_directories=writable,
    )


def _items(state: TrainState) -> dict[str, Any]:
    """The items of a checkpoint."""
    items = {"params": state.params, "optimizer": {"step": state.step, "opt_state": state.opt_state}}
    return items if state.frozen is None else items | {"frozen": state.frozen}


def _parameter_items(metadata: Mapping[str, Any]) -> dict[str, Params]:
    """Shapes and dtypes of the items `params` and, if the checkpoint has it, `frozen`."""
    return {
        item: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), metadata[item])
        for item in ("params", "frozen")
        if item in metadata
    }


def _with_shardings(tree: Params, shardings: Params) -> Params:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree, shardings
    )


def _check_shapes(found: Any, expected: Any, where: str, item: str) -> None:
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
    """Shape of every leaf by its path, which names tuple entries by index and fields by name, as Orbax does."""
    return {
        "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path): tuple(
            leaf.shape
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))
