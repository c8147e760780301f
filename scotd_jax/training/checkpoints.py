"""Checkpoints: parameters, optimizer state and data iterator state, committed together or not at all.

A checkpoint has the items `params` and `optimizer` (its state and the number of updates), so that parameters can be
loaded without the optimizer, and `frozen` if some parameters are frozen (trainable.py). Every checkpoint is complete: a
run resumes from it bit for bit, and `load_params` returns plain model parameters also for LoRA. The state of the data
iterator, a few numbers, is in the metadata. It is the same on every host, so a run can resume with another number of
hosts and another mesh.

The metadata also has a digest of every array (checkpoint_record.py), which is compared whenever arrays are loaded. A
damaged checkpoint is never used: `Checkpoints.restore` moves it aside and goes back to the one before it.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
from etils import epath

from scotd_jax.distributed import hosts
from scotd_jax.errors import InputError
from scotd_jax.models.api import Params
from scotd_jax.progress import log
from scotd_jax.training.checkpoint_record import (
    CheckpointRecord,
    DamagedCheckpoint,
    make_record,
    read_record,
)
from scotd_jax.training.orbax_files import check_shapes, committed_steps, load_items, open_for_writing, saved_items
from scotd_jax.training.step import TrainState
from scotd_jax.training.trainable import combine, partition_shardings


class Checkpoints:
    """The checkpoints of one run: the last few and the best one. A context manager.

    Args:
      folder: folder of the checkpoints.
      max_to_keep: number of latest checkpoints to keep, besides the best one.
    """

    def __init__(self, folder: epath.PathLike, max_to_keep: int = 2):
        self._folder = epath.Path(folder)
        self._scores: dict[int, float] = {}  # by step
        self._checkpointer = open_for_writing(self._folder, _KeepLastAndBest(max_to_keep, self._scores))
        for step in committed_steps(self._folder):
            with contextlib.suppress(DamagedCheckpoint):  # `restore` reports it
                self._scores[step] = read_record(self._folder / str(step)).score

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def latest(self) -> int | None:
        """Step of the last committed checkpoint."""
        self.wait()
        return max(committed_steps(self._folder), default=None)

    def save(
        self,
        step: int,
        state: TrainState,
        data_state: Mapping[str, Any],
        metrics: Mapping[str, float],
        unfinished: Mapping[str, Any] = {},
    ) -> None:
        """Copies `state` off the devices and returns; the files are written in the background during the next updates.

        Args:
          step: number of updates made.
          state: the training state.
          data_state: `get_state()` of the data iterator, taken before it is advanced for the next update.
          metrics: evaluation scores; the best checkpoint is chosen by their `dev_accuracy`.
          unfinished: metrics of updates since the last line (`DeferredMetrics.unfinished`).
        """
        record = make_record(data_state, metrics, _items(state), unfinished)
        self._scores[step] = record.score
        # Without `overwrite` Orbax lists the times of all checkpoints, which a lightweight checkpointer does not read.
        self._checkpointer.save_checkpointables_async(
            step, _items(state), custom_metadata=record.to_metadata(), overwrite=True
        )

    def restore(self, abstract: TrainState) -> tuple[TrainState, CheckpointRecord]:
        """Restores the last checkpoint that is not damaged.

        Logs every damaged one and moves it to the folder `damaged` beside that of the checkpoints.

        Args:
          abstract: shapes, dtypes and shardings of the state.

        Returns:
          The training state, and the record with the state of the data iterator.

        Raises:
          InputError: if the checkpoint belongs to another model or optimizer, or all checkpoints are damaged.
        """
        damaged: list[int] = []
        for step in reversed(committed_steps(self._folder)):
            try:
                restored = self._restore(step, abstract)
            except DamagedCheckpoint as error:
                log(f"WARNING: {error}; the checkpoint before it is used", process_index=jax.process_index())
                damaged.append(step)
            else:
                self._set_aside(damaged)
                return restored
        raise InputError(
            f"{self._folder}: all checkpoints are damaged; restore one from a copy, or train again with "
            "--overwrite=train"
        )

    def _restore(self, step: int, abstract: TrainState) -> tuple[TrainState, CheckpointRecord]:
        target, checkpoint = _items(abstract), self._folder / str(step)
        record = read_record(checkpoint)
        saved = saved_items(checkpoint, record)
        for item in target:
            check_shapes(saved.get(item, {}), target[item], f"{checkpoint}", item)
        loaded = load_items(checkpoint, record, target)
        optimizer = loaded["optimizer"]
        state = TrainState(optimizer["step"], loaded["params"], optimizer["opt_state"], loaded.get("frozen"))
        return state, record

    def _set_aside(self, steps: Sequence[int]) -> None:
        """Moves damaged checkpoints to the folder `damaged`, which no job reads."""
        if not steps:
            return
        for step in steps if hosts.is_primary() else ():
            target = self._folder.parent / "damaged" / str(step)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.rmtree()
            (self._folder / str(step)).rename(target)
            log(f"WARNING: {self._folder / str(step)} is moved to {target}")
        hosts.sync_processes(f"{self._folder} has no damaged checkpoint")
        self._checkpointer.reload()

    def wait(self) -> None:
        """Waits until the files of the last save are written."""
        self._checkpointer.wait()

    def close(self) -> None:
        """Waits until all files are written. Raises the error if writing has failed, for example on a full disk."""
        self._checkpointer.close()


def load_params(
    folder: epath.PathLike, abstract: Params, which: Literal["best", "last"] | int = "best"
) -> tuple[Params, int]:
    """Loads model parameters from a checkpoint, with LoRA matrices merged into their kernels.

    Args:
      folder: folder of the checkpoints.
      abstract: shapes and, optionally, shardings of the model parameters; leaves without a sharding are loaded to the
        first local device.
      which: the best or the last checkpoint, or its step. If none has a `dev_accuracy`, the last one is the best.

    Returns:
      The parameters and the step of the checkpoint.

    Raises:
      InputError: if there is no checkpoint, or it belongs to another model or is damaged.
    """
    folder = epath.Path(folder)
    if not folder.exists():
        raise InputError(f"{folder}: there are no checkpoints here; run the job 'train' first")
    steps = committed_steps(folder)
    if not steps:
        raise InputError(f"{folder}: no finished checkpoint here; run the job 'train' first")
    try:
        step = _best(folder, steps) if which == "best" else steps[-1] if which == "last" else which
        if step not in steps:
            raise DamagedCheckpoint(f"{folder / str(step)}: the checkpoint is missing")
        return _load_params(folder / str(step), abstract), step
    except DamagedCheckpoint as error:
        raise InputError(f"{error}. Restore it from a copy, or train again with --overwrite=train") from None


def _load_params(checkpoint: epath.Path, abstract: Params) -> Params:
    record = read_record(checkpoint)
    local = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda leaf: getattr(leaf, "sharding", None) or local, abstract)
    saved = _parameter_items(saved_items(checkpoint, record))
    combined = jax.eval_shape(combine, saved["params"], saved.get("frozen"))
    check_shapes(combined, abstract, f"{checkpoint}", "params")
    target = {item: _with_shardings(tree, partition_shardings(tree, shardings)) for item, tree in saved.items()}
    loaded = load_items(checkpoint, record, target)
    if "frozen" not in loaded:
        return loaded["params"]
    return jax.jit(combine, out_shardings=shardings)(loaded["params"], loaded["frozen"])


def verify_checkpoints(folder: epath.Path) -> Iterator[int]:
    """Loads all checkpoints in a folder, one item at a time, and yields the step of each that is intact.

    Raises:
      DamagedCheckpoint: at the first one that is not.
    """
    local = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    for step in committed_steps(folder):
        checkpoint = folder / str(step)
        record = read_record(checkpoint)
        for item, tree in saved_items(checkpoint, record).items():
            target = _with_shardings(tree, jax.tree.map(lambda leaf: local, tree))
            load_items(checkpoint, record, {item: target})
        yield step


def best_step(folder: epath.PathLike) -> dict[str, int | float]:
    """Returns `step` and metrics of the best checkpoint in `folder`, and `last_step`."""
    folder = epath.Path(folder)
    steps = committed_steps(folder)
    best = _best(folder, steps)
    return {"step": best, "last_step": steps[-1], **read_record(folder / str(best)).scores}


def latest_step(folder: epath.PathLike) -> int:
    """Returns the step of the last committed checkpoint in `folder`; 0 if there is none."""
    return max(committed_steps(epath.Path(folder)), default=0)


def best_index(scores: Sequence[float]) -> int:
    """Returns the index of the largest score, the first one on ties; the last index if all are -1 (not evaluated)."""
    best = max(scores)
    return scores.index(best) if best >= 0 else len(scores) - 1


def _best(folder: epath.Path, steps: Sequence[int]) -> int:
    return steps[best_index([read_record(folder / str(step)).score for step in steps])]


class _KeepLastAndBest:
    """Orbax preservation policy: the last `max_to_keep` checkpoints and the best one."""

    def __init__(self, max_to_keep: int, scores: Mapping[int, float]):
        self._max_to_keep, self._scores = max(max_to_keep, 1), scores

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        best = best_index([self._scores.get(each.step, -1.0) for each in checkpoints]) if checkpoints else 0
        return [i == best or i >= len(checkpoints) - self._max_to_keep for i in range(len(checkpoints))]


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
