"""Checkpoints of a run: parameters, optimizer, and where the data iterator stands, committed together or not at all.

This file alone knows Orbax. A checkpoint has two items, `params` and `optimizer` (its state and the number of
updates), so that a student's parameters can be read without its optimizer; the state of the data iterator, which is
a few numbers, travels in the checkpoint's own metadata. It is the same on every host, so a run may go on with another
number of hosts and another mesh.

Numbers that do not learn (trainable.py) are a third item, `frozen`. Every checkpoint has them, so that each is whole:
a run goes on from it bit for bit, and `load_params` makes plain parameters of it whatever was trained.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from scotd_jax.errors import InputError
from scotd_jax.models.api import Params
from scotd_jax.training import trainable
from scotd_jax.training.step import TrainState

BEST = "dev_accuracy"  # the metric by which the best checkpoint is chosen; the larger the better


class Checkpoints:
    """The checkpoints of one run in one folder: the last `keep` of them and the best one. A context manager."""

    def __init__(self, folder: epath.PathLike, keep: int = 2):
        self._folder = epath.Path(folder)
        self._orbax = _open(self._folder, _Keep(keep), writes=True)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def latest(self) -> int | None:
        """Step of the last committed checkpoint."""
        latest = self._orbax.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: TrainState, data_state: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Copies `state` off the devices and returns; the files are written behind the next updates.

        `data_state` is what the data iterator's get_state() gives, taken before the iterator is advanced for the next
        update. `metrics` with the entry `dev_accuracy` makes the checkpoint a candidate for the best one.
        """
        self._orbax.save_checkpointables_async(
            step,
            _items(state),
            metrics=dict(metrics) or None,
            custom_metadata={"data": json.dumps(data_state)},
        )

    def restore(self, abstract: TrainState) -> tuple[TrainState, Any]:
        """State (placed as the shardings of `abstract` say) and data iterator state of the last checkpoint.

        Raises InputError if the checkpoint was written by another model or optimizer.
        """
        step = self.latest
        target = _items(abstract)
        found = self._orbax.checkpointables_metadata(step)
        for item in target:
            _check_same(found.metadata.get(item, {}), target[item], f"{self._folder / str(step)}", item)
        loaded = self._orbax.load_checkpointables(step, target)
        optimizer = loaded["optimizer"]
        state = TrainState(optimizer["step"], loaded["params"], optimizer["opt_state"], loaded.get("frozen"))
        return state, json.loads(found.custom_metadata["data"])

    def close(self) -> None:
        """Waits until everything is written. Raises what the writing raised (a full disk, for instance)."""
        self._orbax.close()


def load_params(
    folder: epath.PathLike, abstract: Params, which: Literal["best", "last"] = "best"
) -> tuple[Params, int]:
    """Parameters of the best (or last) checkpoint in `folder`, LoRA's matrices added to their kernels, and its step.

    `abstract` gives shapes and, where its leaves have shardings, places; leaves without one go to the first device.
    Without any `dev_accuracy` the last checkpoint is the best. Raises InputError if there is no checkpoint or if it
    is one of another model.
    """
    folder = epath.Path(folder)
    if not folder.exists():
        raise InputError(f"{folder}: there are no checkpoints here; run the job 'train' first")
    with _open(folder, _Keep(1), writes=False) as orbax:
        steps = orbax.checkpoints
        if not steps:
            raise InputError(f"{folder}: no finished checkpoint here; run the job 'train' first")
        chosen = steps[best_of([step.metrics for step in steps])] if which == "best" else steps[-1]
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        places = jax.tree.map(lambda leaf: getattr(leaf, "sharding", None) or here, abstract)
        found = orbax.checkpointables_metadata(chosen.step).metadata
        items = [item for item in ("params", "frozen") if item in found]
        trees = [jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), found[item]) for item in items]
        trees = (*trees, None)[:2]
        _check_same(jax.eval_shape(trainable.combine, *trees), abstract, f"{folder / str(chosen.step)}", "params")
        target = {
            item: jax.tree.map(
                lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
                tree,
                trainable.shardings(tree, places),
            )
            for item, tree in zip(items, trees, strict=False)
        }
        loaded = orbax.load_checkpointables(chosen.step, target)
    if "frozen" not in loaded:
        return loaded["params"], chosen.step
    combine = jax.jit(trainable.combine, out_shardings=places)
    return combine(loaded["params"], loaded["frozen"]), chosen.step


def best_step(folder: epath.PathLike) -> dict[str, int | float]:
    """Step and metrics of the best checkpoint in `folder`, and the last step."""
    with _open(epath.Path(folder), _Keep(1), writes=False) as orbax:
        steps = orbax.checkpoints
        best = steps[best_of([step.metrics for step in steps])]
        return {"step": best.step, "last_step": steps[-1].step, **(best.metrics or {})}


def best_of(metrics: Sequence[Mapping[str, float] | None]) -> int:
    """Index of the best entry: the largest `dev_accuracy`, the later one of equals; the last if none has any."""
    scores = [-1.0 if entry is None else float(entry.get(BEST, -1.0)) for entry in metrics]
    return max(range(len(scores)), key=lambda i: (scores[i], i))


class _Keep:
    """Orbax preservation policy: the last `keep` checkpoints and the best one."""

    def __init__(self, keep: int):
        self._keep = max(keep, 1)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        best = best_of([step.metrics for step in checkpoints]) if checkpoints else 0
        return [i == best or i >= len(checkpoints) - self._keep for i in range(len(checkpoints))]


def _items(state: TrainState) -> dict[str, Any]:
    """What is saved together."""
    items = {"params": state.params, "optimizer": {"step": state.step, "opt_state": state.opt_state}}
    return items if state.frozen is None else items | {"frozen": state.frozen}


def _open(folder: epath.Path, keep: _Keep, writes: bool) -> ocp.training.Checkpointer:
    return ocp.training.Checkpointer(
        folder,
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),  # the loop decides
        preservation_policy=keep,
        cleanup_tmp_directories=writes,
    )


def _check_same(found: Any, expected: Any, where: str, item: str) -> None:
    """Raises InputError at the first leaf that one of the two trees lacks or whose shape differs."""
    found_shapes, expected_shapes = _shapes(found), _shapes(expected)
    if found_shapes == expected_shapes:
        return
    for name in sorted(found_shapes.keys() | expected_shapes.keys()):
        saved, wanted = found_shapes.get(name), expected_shapes.get(name)
        if saved != wanted:
            what = "model" if item == "params" else "optimizer"
            raise InputError(
                f"{where}: checkpoint of another {what}: {name} is {_written(saved)} there and {_written(wanted)} in "
                "this config; restore the old config, or train anew with --overwrite=train"
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shape by path. Orbax names tuple entries by number and fields by name, and so does this."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path): tuple(
            leaf.shape
        )
        for path, leaf in leaves
    }


def _written(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))
