"""The training loop. The order of its operations must not change; comments in `train` have these numbers:

1. Create parameters and optimizer state on the mesh, already sharded.
2. If there is a checkpoint, restore the state, set the data iterator to its saved position, drop metrics after it. If
   it lacks the evaluation that is due there, make up for it, and save it again with the scores.
3. Before the first update of a process, check the first batch against separate pairs (startup_check.py) and fused
   attention against XLA's (attention_check.py).
   For every update:
   a. take the next batch from the iterator and send it to the devices (which are busy with the previous update),
   b. dispatch the update,
   c. fetch the metrics of the *previous* update, so that the host never waits for the one just dispatched, and at a
      logging step write their means and the wall time by category (accounting.py).
4. At an evaluation or saving step, when the last checkpoint is too old (save_timer.py), and on a preemption notice
   (preemption.py), still inside the loop:
   a. wait for the update, check it, and write its metrics,
   b. evaluate the dev questions,
   c. save state and iterator *before* the iterator is advanced. A checkpoint always means "n updates made, n batches
      taken", so an interrupted and resumed run makes exactly the updates of an uninterrupted one.
   After a preemption notice, the run ends here, without an evaluation or in the middle of one.
5. If training has diverged, with `on_divergence="rewind"`: go back to 2, but leave the iterator where it is, so that
   other batches follow.
6. Wait until the last checkpoint is written.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from etils import epath

from scotd_jax import config, preemption, progress
from scotd_jax.distributed import mesh as meshes
from scotd_jax.distributed import sharding
from scotd_jax.distributed.profiling import NO_PROFILE, profile_steps
from scotd_jax.distributed.watchdog import UPDATE_MINUTES, Watchdog
from scotd_jax.errors import SizesError
from scotd_jax.models.api import LanguageModel, Params
from scotd_jax.training.accounting import GoodputTracker, batch_flops, mesh_peak_flops, previous_seconds
from scotd_jax.training.attention_check import checked_programs
from scotd_jax.training.checkpoint_record import CheckpointRecord
from scotd_jax.training.checkpoints import Checkpoints
from scotd_jax.training.metric_services import metric_services
from scotd_jax.training.metrics import DeferredMetrics, DivergedError, MetricWriter
from scotd_jax.training.programs import TrainingPrograms, training_programs
from scotd_jax.training.save_timer import SaveTimer
from scotd_jax.training.step import ONE_PART, TrainState

MAX_REWINDS = 3  # number of returns to a checkpoint; a run that diverges once more ends


@runtime_checkable
class BatchIterator(Protocol):
    """An endless iterator of batches (step.py) whose position can be saved, for example grain's `DatasetIterator`.

    Batch t depends only on the seed and t. With several hosts each yields its own rows of the batch, and the state is
    the same on all hosts.
    """

    def __next__(self) -> Mapping[str, Mapping[str, np.ndarray]]: ...

    def get_state(self) -> Any:
        """Returns the position, as plain data."""
        ...

    def set_state(self, state: Any) -> None:
        """Moves to a position that `get_state` has returned."""
        ...


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
        checkpoint belongs to another model or optimizer, or training has diverged (DivergedError).
      Preempted: after SIGTERM, when a checkpoint is saved.
    """
    check_batch_size(training, mesh)
    folder = epath.Path(folder)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(folder / "checkpoints", training.max_to_keep))
        tracker = GoodputTracker(previous_seconds(folder / "metrics.jsonl", checkpoints.latest or 0))
        stack.enter_context(preemption.deferred())
        with tracker.measure("other"):
            programs = training_programs(model, training, parts, mesh)
        run = _Run(
            model, batches, training, folder, mesh, seed, evaluate, log, parts, profile, checkpoints, tracker, programs
        )
        for rewinds in itertools.count():
            try:
                run.update(*run.start(initial_params, sets_position=not rewinds))
                break
            except DivergedError as error:
                # 5. Return to the last checkpoint.
                if training.on_divergence != "rewind" or rewinds == MAX_REWINDS:
                    raise
                found = str(error).partition(". ")[0]
                message = f"{found}; returning to the last checkpoint, with the batches that follow"
                progress.log(message, process_index=jax.process_index())
        # 6. Wait for the last checkpoint.
        with tracker.measure("checkpoint"):
            stack.close()
    return tracker.totals()


@dataclasses.dataclass(frozen=True)
class _Run:
    """The arguments of `train`, and what it has created from them."""

    model: LanguageModel
    batches: BatchIterator
    training: config.Training
    folder: epath.Path
    mesh: jax.sharding.Mesh
    seed: int
    evaluate: Callable[[Params, int], Mapping[str, float]] | None
    log: Callable[[int, Mapping[str, float]], None] | None
    parts: Sequence[tuple[str, float]]
    profile: config.Profile
    checkpoints: Checkpoints
    tracker: GoodputTracker
    programs: TrainingPrograms

    def start(
        self, initial_params: Callable[[], Params] | None, sets_position: bool
    ) -> tuple[TrainState, int, CheckpointRecord | None]:
        """1. and 2. Creates or restores the state. Returns it with its step and the record of its checkpoint.

        Args:
          initial_params: as in `train`.
          sets_position: whether the iterator is set to the position of the checkpoint.
        """
        self.checkpoints.wait()
        if self.checkpoints.latest is None:
            with self.tracker.measure("other"):
                return self.programs.init_state(initial_params and initial_params(), self.seed), 0, None
        with self.tracker.measure("checkpoint"):
            state, record = self.checkpoints.restore(self.programs.abstract_state)
            if sets_position:
                self.batches.set_state(record.data)
        return state, int(state.step), record

    def update(self, state: TrainState, done: int, record: CheckpointRecord | None) -> None:
        """3. and 4. Makes the updates after `done`, with evaluations and saves."""
        training, programs, tracker = self.training, self.programs, self.tracker
        dropout_args = (programs.dropout_seed(self.seed),) if training.dropout > 0 else ()
        timer = SaveTimer(training.save_minutes, training.log_every)
        with contextlib.ExitStack() as stack:
            services = metric_services(training, self.folder)
            writer = stack.enter_context(MetricWriter(self.folder / "metrics.jsonl", done, services))

            def emit(step: int, values: Mapping[str, float]) -> None:
                writer.write(step, values)
                if self.log is not None:
                    self.log(step, values)

            metrics = DeferredMetrics(
                training.log_every,
                lambda step, values: emit(step, {**values, **tracker.totals()}),
                tracker.update_seconds,
                mesh_peak_flops(self.mesh),
                skips=training.on_divergence == "skip",
                unfinished=record.unfinished if record else None,
            )

            def save(step: int, state: TrainState, evaluates: bool, preempted: bool) -> None:
                """4b. and c."""
                scores: dict[str, float] = {}
                if evaluates and self.evaluate is not None and not preempted:
                    with tracker.measure("evaluation"), preemption.interrupted():
                        scores = dict(self.evaluate(programs.model_params(state), step))
                if scores:
                    emit(step, scores)
                writer.flush()
                with tracker.measure("checkpoint"):
                    self.checkpoints.save(step, state, self.batches.get_state(), scores, metrics.unfinished)
                if preempted or preemption.is_received():
                    self.checkpoints.wait()
                    raise preemption.Preempted

            hangs = stack.enter_context(Watchdog(UPDATE_MINUTES))
            # 2. The evaluation that a preemption notice prevented.
            if record is not None and not record.scores and _evaluate_and_save(done, training)[0] and self.evaluate:
                save(done, state, evaluates=True, preempted=False)
            # 3. Update.
            numbers = range(done + 1, training.steps + 1)
            steps = profile_steps(numbers, self.profile, self.folder / "profile", done + 1, metrics.wait)
            for step in stack.enter_context(contextlib.closing(steps)):
                with tracker.measure("input", metrics.devices_idle):
                    host_batch = next(self.batches)
                if step == done + 1 and training.startup_check:
                    with tracker.measure("other"):
                        params = programs.model_params(state)
                        programs = checked_programs(
                            programs, self.model, training, self.parts, self.mesh, params, host_batch
                        )
                        del params
                with jax.transfer_guard("disallow"):  # no accidental transfers to or from a device
                    batch = sharding.shard_batch(host_batch, programs.batch_sharding)
                    with tracker.measure("compile") if programs.is_new_shape(batch) else contextlib.nullcontext():
                        state, update_metrics = programs.step(state, batch, *dropout_args)
                    with hangs.limit(f"update {step - 1}"):
                        metrics.add(step, update_metrics, batch_flops(self.model.config, batch))

                # 4. Evaluate and save.
                evaluate_now, scheduled = _evaluate_and_save(step, training)
                preempted = preemption.is_requested()
                if not (scheduled or preempted or timer.is_due(step)):
                    continue
                with hangs.limit(f"update {step}"):
                    metrics.drain(end_line=scheduled)
                save(step, state, evaluate_now, preempted)
                if scheduled:
                    metrics.restart()  # the next line starts here, not at `drain`
                timer.restart()


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
