"""The training loop. The order of operations, which the code below follows and which must not change:

1. Place parameters and optimizer state on the mesh, already split.
2. If there is a checkpoint, restore the state, set the data iterator to where it stood, drop metrics past it.
3. Before the first update of a start, the first batch is checked against separate pairs (check.py).
   For every update:
   a. take the next batch from the iterator and hand it to the devices (which are busy with the update before),
   b. dispatch the update,
   c. read the metrics of the update *before* it, so that the host never waits for the one just dispatched, and
      write the means at a logging step.
4. At an evaluation or saving step, still inside the loop:
   a. wait for the update and write its metrics,
   b. score the dev questions,
   c. save state and iterator *before* the iterator is advanced. A checkpoint is always "n updates made, n batches
      taken"; so a run that is cut and goes on makes exactly the updates of one that was not.
5. Wait until the last checkpoint is written.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from scotd_jax import config
from scotd_jax.distributed import mesh as meshes
from scotd_jax.distributed import sharding
from scotd_jax.errors import InputError
from scotd_jax.models.api import Model, Params
from scotd_jax.training.check import check_pairs
from scotd_jax.training.checkpoints import Checkpoints
from scotd_jax.training.metrics import LateMetrics, MetricWriter
from scotd_jax.training.optimizer import make_optimizer, make_schedule
from scotd_jax.training.step import ONE_PART, TrainState, chunk_tokens, make_train_step


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
    init_params: Params | None,
    loader: Batches,
    training: config.Training,
    folder: epath.PathLike,
    mesh: jax.sharding.Mesh,
    seed: int = 0,
    evaluate: Callable[[Params, int], Mapping[str, float]] | None = None,
    log: Callable[[int, Mapping[str, float]], None] | None = None,
    parts: Sequence[tuple[str, float]] = ONE_PART,
) -> None:
    """Trains for `training.steps` updates, or goes on from the last checkpoint in FOLDER/checkpoints.

    `init_params` are where training starts (host or device arrays, left untouched); None draws them from `seed`,
    each device making its own part only. `evaluate(params, step)` gives numbers of the dev questions; its
    `dev_accuracy` chooses the best checkpoint. `log(step, values)` receives every line of FOLDER/metrics.jsonl.
    `parts` are the parts of a batch and the weights of their losses (step.py).
    Raises InputError if the sizes do not fit together, the checkpoint is one of another model or optimizer, or the
    loss is no longer finite.
    """
    _check_sizes(training, mesh)
    folder = epath.Path(folder)
    programs = _programs(model, training.optimizer, training.steps, training.microbatches, tuple(parts), mesh)
    board = folder / "tensorboard" if training.tensorboard else None
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(folder / "checkpoints", training.keep))
        if checkpoints.latest is None:
            state, done = programs.start(init_params, seed), 0
        else:
            state, data_state = checkpoints.restore(programs.abstract)
            done = int(state.step)
            loader.set_state(data_state)
        writer = stack.enter_context(MetricWriter(folder / "metrics.jsonl", done, board))

        def emit(step: int, values: Mapping[str, float]) -> None:
            writer.write(step, values)
            if log is not None:
                log(step, values)

        metrics = LateMetrics(training.log_every, emit)
        for step in range(done + 1, training.steps + 1):
            rows = next(loader)
            if step == done + 1 and training.check:
                check_pairs(model, state.params, rows, mesh)
            with jax.transfer_guard("disallow"):  # nothing moves to or from a device by accident
                batch = sharding.place_batch(rows, programs.batch)
                state, update = programs.step(state, batch)
                metrics.add(step, update)

            evaluates, saves = _due(step, training)
            if not saves:
                continue
            metrics.drain()
            scores = dict(evaluate(state.params, step)) if evaluates and evaluate is not None else {}
            if scores:
                emit(step, scores)
            writer.flush()
            checkpoints.save(step, state, loader.get_state(), scores)
            metrics.restart()


@dataclasses.dataclass(frozen=True)
class _Programs:
    """What is compiled once and shared by all runs of the same shape."""

    abstract: TrainState  # shapes, dtypes and places
    batch: jax.sharding.NamedSharding
    init_params: Callable[[jax.Array], Params]
    init_optimizer: Callable[[Params], Any]
    step: Callable[[TrainState, Mapping[str, Mapping[str, jax.Array]]], tuple[TrainState, dict[str, jax.Array]]]

    def start(self, params: Params | None, seed: int) -> TrainState:
        """The state before the first update."""
        if params is None:
            placed = self.init_params(jax.random.key(seed))
        else:
            placed = sharding.place_params(params, jax.tree.map(lambda leaf: leaf.sharding, self.abstract.params))
        step = jax.device_put(jnp.zeros((), jnp.int32), self.abstract.step.sharding)
        return TrainState(step, placed, self.init_optimizer(placed))


@functools.lru_cache(maxsize=8)
def _programs(
    model: Model,
    settings: config.Optimizer,
    steps: int,
    microbatches: int,
    parts: tuple[tuple[str, float], ...],
    mesh: jax.sharding.Mesh,
) -> _Programs:
    """Kept, so that the students of one chain that differ in their data alone compile once."""
    optimizer, schedule = make_optimizer(settings, steps), make_schedule(settings, steps)
    params = model.abstract()
    places = sharding.param_shardings(mesh, model.axes(), params)
    opt_state = jax.eval_shape(optimizer.init, params)
    opt_places = sharding.shardings_like(opt_state, params, places, mesh)
    whole, batch = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    state_places = TrainState(whole, places, opt_places)
    abstract = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, opt_state),
        state_places,
    )
    chunk = chunk_tokens(model.config.vocab_size, meshes.batch_shards(mesh))
    step = jax.jit(
        make_train_step(model, optimizer, schedule, microbatches, chunk, parts),
        in_shardings=(state_places, batch),
        out_shardings=(state_places, whole),
        donate_argnums=0,
    )
    return _Programs(
        abstract=abstract,
        batch=batch,
        init_params=jax.jit(model.init, out_shardings=places),
        init_optimizer=jax.jit(optimizer.init, out_shardings=opt_places),
        step=step,
    )


def _due(step: int, training: config.Training) -> tuple[bool, bool]:
    """(evaluate, save) after this update. Every evaluation saves, and so does the end."""
    last = step == training.steps
    evaluates = last or (training.eval_every > 0 and step % training.eval_every == 0)
    return evaluates, evaluates or (training.save_every > 0 and step % training.save_every == 0)


def _check_sizes(training: config.Training, mesh: jax.sharding.Mesh) -> None:
    parts = training.microbatches * meshes.batch_shards(mesh)
    if training.microbatches < 1 or training.batch_size % parts != 0:
        raise InputError(
            f"training.batch_size is {training.batch_size}, which {training.microbatches} micro-batches over "
            f"{meshes.batch_shards(mesh)} devices along data and fsdp do not divide; make it a multiple of {parts}"
        )
    if training.steps < 1 or training.log_every < 1:
        raise InputError(f"training.steps ({training.steps}) and training.log_every ({training.log_every}) are >= 1")
