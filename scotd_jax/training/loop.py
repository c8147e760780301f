"""The training loop. The order of its operations must not change; comments in `train` have these numbers:

1. Create parameters and optimizer state on the mesh, already sharded.
2. If there is a checkpoint, restore the state, set the data iterator to its saved position, drop metrics after it.
3. Before the first update of a process, check the first batch against separate pairs (startup_check.py).
   For every update:
   a. take the next batch from the iterator and send it to the devices (which are busy with the previous update),
   b. dispatch the update,
   c. fetch the metrics of the *previous* update, so that the host never waits for the one just dispatched, and at a
      logging step write their means and the wall time by category (accounting.py).
4. At an evaluation or saving step, still inside the loop:
   a. wait for the update and write its metrics,
   b. evaluate the dev questions,
   c. save state and iterator *before* the iterator is advanced. A checkpoint always means "n updates made, n batches
      taken", so an interrupted and resumed run makes exactly the updates of an uninterrupted one.
5. Wait until the last checkpoint is written.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from etils import epath

from scotd_jax import config
from scotd_jax.distributed import mesh as meshes
from scotd_jax.distributed import sharding
from scotd_jax.distributed.profiling import NO_PROFILE, profile_steps
from scotd_jax.errors import SizesError
from scotd_jax.models.api import LanguageModel, Params
from scotd_jax.training.accounting import GoodputTracker, batch_flops, mesh_peak_flops, previous_seconds
from scotd_jax.training.checkpoints import Checkpoints
from scotd_jax.training.metrics import DeferredMetrics, MetricWriter
from scotd_jax.training.programs import training_programs
from scotd_jax.training.startup_check import check_against_pairs
from scotd_jax.training.step import ONE_PART


@runtime_checkable
class BatchIterator(Protocol):
    """An endless iterator of batches (step.py) whose position can be saved, for example grain's `DatasetIterator`.

    Batch t depends only on the seed and t. With several hosts each yields its own rows of the batch, and the state is
    the same on all hosts.
    """

    def __next__(self) -> Mapping[str, Mapping[str, np.ndarray]]: ...
    def get_state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...


def train(
    model: LanguageModel,
    initial_params: Callable[[], Params] | None,
    batches: BatchIterator,
    training: config.Training,
    folder: epath.PathLike,
    mesh: jax.sharding.Mesh,
    seed: int = 0,
    evaluate: Callable[[Params, int], Mapping[str, float]] | None = None,
    log: Callable[[int, Mapping[str, float]], None] | None = None,
    parts: Sequence[tuple[str, float]] = ONE_PART,
    profile: config.Profile = NO_PROFILE,
) -> dict[str, float]:
    """Trains for `training.steps` updates, or resumes from the last checkpoint in FOLDER/checkpoints.

    Args:
      model: the model to train.
      initial_params: returns the initial parameters (host or device arrays, which are copied); called only if there is
        no checkpoint. A function, so that the caller does not hold them during training. If None, they are drawn from
        `seed`, each shard on its own device.
      batches: iterator of batches.
      training: training settings.
      folder: folder of checkpoints, metrics.jsonl, profile and TensorBoard files.
      mesh: devices to train on.
      seed: seed of initial parameters, LoRA matrices and dropout.
      evaluate: called with parameters and step; returns metrics of the dev questions. Its `dev_accuracy` chooses the
        best checkpoint.
      log: called with step and values of every line of metrics.jsonl.
      parts: names of the parts of a batch and weights of their losses (step.py).
      profile: updates to record in FOLDER/profile.

    Returns:
      Goodput and seconds by category (`GoodputTracker.totals`).

    Raises:
      InputError: if the sizes do not fit together, `training.freeze` or `training.lora` do not fit the model, the
        checkpoint belongs to another model or optimizer, or the loss is not finite.
    """
    check_batch_size(training, mesh)
    folder = epath.Path(folder)
    tensorboard = folder / "tensorboard" if training.tensorboard else None
    with contextlib.ExitStack() as stack:
        # 1. and 2. Create or restore the state.
        checkpoints = stack.enter_context(Checkpoints(folder / "checkpoints", training.max_to_keep))
        done = checkpoints.latest or 0
        tracker = GoodputTracker(previous_seconds(folder / "metrics.jsonl", done))
        with tracker.measure("other"):
            programs = training_programs(model, training, parts, mesh)
            dropout_args = (programs.dropout_seed(seed),) if training.dropout > 0 else ()
        if done:
            with tracker.measure("checkpoint"):
                state, data_state = checkpoints.restore(programs.abstract_state)
                batches.set_state(data_state)
        else:
            with tracker.measure("other"):
                state = programs.init_state(initial_params and initial_params(), seed)
        writer = stack.enter_context(MetricWriter(folder / "metrics.jsonl", done, tensorboard))

        def emit(step: int, values: Mapping[str, float]) -> None:
            writer.write(step, values)
            if log is not None:
                log(step, values)

        def emit_with_times(step: int, values: Mapping[str, float]) -> None:
            emit(step, {**values, **tracker.totals()})

        metrics = DeferredMetrics(training.log_every, emit_with_times, tracker.update_seconds, mesh_peak_flops(mesh))
        # 3. Update.
        steps = profile_steps(range(done + 1, training.steps + 1), profile, folder / "profile", done + 1, metrics.wait)
        for step in stack.enter_context(contextlib.closing(steps)):
            with tracker.measure("input", metrics.devices_idle):
                host_batch = next(batches)
            if step == done + 1 and training.startup_check:
                with tracker.measure("other"):
                    check_against_pairs(model, programs.model_params(state), host_batch, mesh, programs.attention)
            with jax.transfer_guard("disallow"):  # no accidental transfers to or from a device
                batch = sharding.shard_batch(host_batch, programs.batch_sharding)
                with tracker.measure("compile") if programs.is_new_shape(batch) else contextlib.nullcontext():
                    state, update_metrics = programs.step(state, batch, *dropout_args)
                metrics.add(step, update_metrics, batch_flops(model.config, batch))

            # 4. Evaluate and save.
            evaluate_now, save_now = _evaluate_and_save(step, training)
            if not save_now:
                continue
            metrics.drain()
            with tracker.measure("evaluation"):
                scores = {}
                if evaluate_now and evaluate is not None:
                    scores = dict(evaluate(programs.model_params(state), step))
            if scores:
                emit(step, scores)
            writer.flush()
            with tracker.measure("checkpoint"):
                checkpoints.save(step, state, batches.get_state(), scores)
            metrics.restart()  # the next line starts here, not at `drain`
        # 5. Wait for the last checkpoint.
        with tracker.measure("checkpoint"):
            stack.close()
    return tracker.totals()


def check_batch_size(training: config.Training, mesh: sharding.AnyMesh) -> None:
    """Raises SizesError if the batch does not split evenly into micro-batches and their shards."""
    shards = meshes.batch_shards(mesh)
    divisor = training.microbatches * shards
    if training.batch_size % divisor != 0:
        raise SizesError(
            f"training.batch_size is {training.batch_size}, which {training.microbatches} micro-batches over "
            f"{shards} devices along data and fsdp do not divide; make it a multiple of {divisor}"
        )


def _evaluate_and_save(step: int, training: config.Training) -> tuple[bool, bool]:
    """Returns whether to evaluate and whether to save after an update.

    Both happen after the last update, and a save follows every evaluation.
    """
    is_last = step == training.steps
    evaluate = is_last or (training.eval_every > 0 and step % training.eval_every == 0)
    return evaluate, evaluate or (training.save_every > 0 and step % training.save_every == 0)
