"""The training loop. The order of operations, which the code below follows and which must not change:

1. Place parameters and optimizer state on the mesh, already split.
2. If there is a checkpoint, restore the state, set the data iterator to where it stood, drop metrics past it.
3. Before the first update of a start, the first batch is checked against separate pairs (check.py).
   For every update:
   a. take the next batch from the iterator and hand it to the devices (which are busy with the update before),
   b. dispatch the update,
   c. read the metrics of the update *before* it, so that the host never waits for the one just dispatched, and
      write the means at a logging step, with where the time went (accounting.py).
4. At an evaluation or saving step, still inside the loop:
   a. wait for the update and write its metrics,
   b. score the dev questions,
   c. save state and iterator *before* the iterator is advanced. A checkpoint is always "n updates made, n batches
      taken"; so a run that is cut and goes on makes exactly the updates of one that was not.
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
from scotd_jax.models.api import Model, Params
from scotd_jax.training.accounting import Spent, earlier, peak_of, work_of
from scotd_jax.training.checkpoints import Checkpoints
from scotd_jax.training.metrics import LateMetrics, MetricWriter
from scotd_jax.training.programs import programs_of
from scotd_jax.training.startup_check import check_pairs
from scotd_jax.training.step import ONE_PART


@runtime_checkable
class Batches(Protocol):
    """An endless iterator of batches (see step.py) that can say where it stands: grain's DatasetIterator.

    Batch t depends on the seed and t alone. On several hosts each yields its own rows of it, and the state is the
    same on all of them.
    """

    def __next__(self) -> Mapping[str, Mapping[str, np.ndarray]]: ...
    def get_state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...


def train(
    model: Model,
    begin: Callable[[], Params] | None,
    loader: Batches,
    training: config.Training,
    folder: epath.PathLike,
    mesh: jax.sharding.Mesh,
    seed: int = 0,
    evaluate: Callable[[Params, int], Mapping[str, float]] | None = None,
    log: Callable[[int, Mapping[str, float]], None] | None = None,
    parts: Sequence[tuple[str, float]] = ONE_PART,
    profile: config.Profile = NO_PROFILE,
) -> dict[str, float]:
    """Trains for `training.steps` updates, or goes on from the last checkpoint in FOLDER/checkpoints.

    `begin()` makes the parameters where training starts (host or device arrays, which are copied), if there is no
    checkpoint: a function, so that nobody holds them while training runs. None draws them from `seed`, each device
    making its own part only. `evaluate(params, step)` gives numbers of the dev questions; its
    `dev_accuracy` chooses the best checkpoint. `log(step, values)` receives every line of FOLDER/metrics.jsonl.
    `parts` are the parts of a batch and the weights of their losses (step.py). The updates that `profile` names are
    recorded in FOLDER/profile. Returns where the time went (`accounting.Spent.totals`).
    Raises InputError if the sizes do not fit together, `training.freeze` or `training.lora` do not fit the model, the
    checkpoint is one of another model or optimizer, or the loss is no longer finite.
    """
    check_sizes(training, mesh)
    folder = epath.Path(folder)
    board = folder / "tensorboard" if training.tensorboard else None
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(folder / "checkpoints", training.max_to_keep))
        done = checkpoints.latest or 0
        spent = Spent(earlier(folder / "metrics.jsonl", done))
        with spent.on("other"):
            programs = programs_of(model, training, parts, mesh)
            noise = programs.noise(seed) if training.dropout > 0 else ()
            if not done:
                state = programs.start(begin and begin(), seed)
        if done:
            with spent.on("checkpoint"):
                state, data_state = checkpoints.restore(programs.abstract)
                loader.set_state(data_state)
        writer = stack.enter_context(MetricWriter(folder / "metrics.jsonl", done, board))

        def emit(step: int, values: Mapping[str, float]) -> None:
            writer.write(step, values)
            if log is not None:
                log(step, values)

        def line(step: int, values: Mapping[str, float]) -> None:
            emit(step, {**values, **spent.totals()})

        metrics = LateMetrics(training.log_every, line, spent.updates, peak_of(mesh))
        steps = profile_steps(range(done + 1, training.steps + 1), profile, folder / "profile", done + 1, metrics.wait)
        for step in stack.enter_context(contextlib.closing(steps)):
            with spent.on("input", metrics.idle):
                rows = next(loader)
            if step == done + 1 and training.startup_check:
                with spent.on("other"):
                    check_pairs(model, programs.combined(state), rows, mesh, programs.attention)
            with jax.transfer_guard("disallow"):  # nothing moves to or from a device by accident
                batch = sharding.shard_batch(rows, programs.batch)
                with spent.on("compile") if programs.is_new(batch) else contextlib.nullcontext():
                    state, update = programs.step(state, batch, *noise)
                metrics.add(step, update, work_of(model.config, batch))

            evaluates, saves = _due(step, training)
            if not saves:
                continue
            metrics.drain()
            with spent.on("evaluation"):
                scores = dict(evaluate(programs.combined(state), step)) if evaluates and evaluate is not None else {}
            if scores:
                emit(step, scores)
            writer.flush()
            with spent.on("checkpoint"):
                checkpoints.save(step, state, loader.get_state(), scores)
            metrics.restart()
        with spent.on("checkpoint"):
            stack.close()
    return spent.totals()


def _due(step: int, training: config.Training) -> tuple[bool, bool]:
    """(evaluate, save) after this update. Every evaluation saves, and so does the end."""
    last = step == training.steps
    evaluates = last or (training.eval_every > 0 and step % training.eval_every == 0)
    return evaluates, evaluates or (training.save_every > 0 and step % training.save_every == 0)


def check_sizes(training: config.Training, mesh: sharding.AnyMesh) -> None:
    """Raises SizesError if a batch cannot be cut as asked."""
    parts = training.microbatches * meshes.batch_shards(mesh)
    if training.batch_size % parts != 0:
        raise SizesError(
            f"training.batch_size is {training.batch_size}, which {training.microbatches} micro-batches over "
            f"{meshes.batch_shards(mesh)} devices along data and fsdp do not divide; make it a multiple of {parts}"
        )
