"""The programs of training: compiled once, shared by all runs of the same shape. And where their arrays lie."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scotd_jax import config
from scotd_jax.distributed import mesh as meshes
from scotd_jax.distributed import sharding
from scotd_jax.models import matmul
from scotd_jax.models.api import Model, Params
from scotd_jax.models.forward_options import Attention, compiler_options
from scotd_jax.models.kernels import fused_attention
from scotd_jax.training import trainable
from scotd_jax.training.optimizer import make_optimizer, make_schedule
from scotd_jax.training.options import forward_options
from scotd_jax.training.step import TrainState, chunk_tokens, make_train_step


@dataclasses.dataclass(frozen=True)
class Programs:
    """`step(state, batch)` takes a state like `abstract` and a batch split as `batch`."""

    abstract: TrainState  # shapes, dtypes and places
    places: Params  # of the model's parameters
    batch: jax.sharding.NamedSharding
    init_params: Callable[[jax.Array], Params]
    split: Callable[[Params, jax.Array], tuple[Params, Params | None]]  # takes its parameters' buffers
    combine: Callable[[Params, Params | None], Params]
    init_optimizer: Callable[[Params], Any]
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]  # of make_train_step
    attention: Attention | None  # of which it makes use
    shapes: set[Any] = dataclasses.field(default_factory=set)  # of the batches so far

    def is_new(self, batch: Mapping[str, Mapping[str, jax.Array]]) -> bool:
        """Whether a batch is the first one of its shape, so that `step` has to be compiled for it."""
        shapes = tuple((name, key, array.shape) for name, part in batch.items() for key, array in part.items())
        new = shapes not in self.shapes
        self.shapes.add(shapes)
        return new

    def start(self, params: Params | None, seed: int) -> TrainState:
        """The state before the first update."""
        if params is None:
            placed = self.init_params(jax.random.key(seed))
        else:
            placed = sharding.shard_params(params, self.places)
        step = jax.device_put(jnp.zeros((), jnp.int32), self.abstract.step.sharding)
        learns, frozen = (placed, None) if self.abstract.frozen is None else self.split(placed, jax.random.key(seed))
        return TrainState(step, learns, self.init_optimizer(learns), frozen)

    def combined(self, state: TrainState) -> Params:
        """The parameters with which the model is called."""
        return state.params if state.frozen is None else self.combine(state.params, state.frozen)

    def noise(self, seed: int) -> tuple[jax.Array]:
        """What `step` takes besides where there is dropout: the seed, whatever its size, as 32 bits."""
        return (jax.device_put(np.uint32(seed % 2**32), self.abstract.step.sharding),)


def programs_of(
    model: Model, training: config.Training, parts: Sequence[tuple[str, float]], mesh: sharding.AnyMesh
) -> Programs:
    """What `loop.train` runs. Kept, so that the students of one chain that differ in their data alone compile once.

    Raises InputError if `training.freeze` or `training.lora` do not fit the model, or `training.attention` the devices.
    """
    given = {field.name: getattr(training, field.name) for field in dataclasses.fields(training)}
    compiled = {name: value for name, value in given.items() if name not in _NOT_COMPILED}
    return _programs(model, config.Training(**compiled), tuple(parts), mesh)


# Fields of config.Training that change nothing of a program. Batches are told apart by their shapes.
_NOT_COMPILED = (
    *("batch_size", "group_size", "balance_window", "max_shapes", "startup_check"),
    *("eval_every", "save_every", "log_every", "max_to_keep", "tensorboard"),
)


@functools.lru_cache(maxsize=8)
def _programs(
    model: Model, training: config.Training, parts: tuple[tuple[str, float], ...], mesh: sharding.AnyMesh
) -> Programs:
    optimizer = make_optimizer(training.optimizer, training.steps)
    schedule = make_schedule(training.optimizer, training.steps)
    split = functools.partial(trainable.split, freeze=training.freeze, lora=training.lora)
    params, key = model.abstract(), jax.eval_shape(lambda: jax.random.key(0))
    places = sharding.param_shardings(mesh, model.axes(), params)
    learns, frozen = jax.eval_shape(lambda params, key: split(params, key=key), params, key)
    learn_places, frozen_places = trainable.shardings(learns, places), trainable.shardings(frozen, places)
    opt_state = jax.eval_shape(optimizer.init, learns)
    opt_places = sharding.shardings_like(opt_state, learns, learn_places, mesh)
    whole, batch = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    state_places = TrainState(whole, learn_places, opt_places, frozen_places)
    abstract = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        TrainState(jax.ShapeDtypeStruct((), jnp.int32), learns, opt_state, frozen),
        state_places,
    )
    chunk = chunk_tokens(model.config.vocab_size, meshes.batch_shards(mesh))
    attention = fused_attention.attention(training.attention, mesh)
    options = dataclasses.replace(
        forward_options(training, meshes.mesh_platform(mesh)),
        activation_sharding=batch if mesh.shape["fsdp"] > 1 else None,
        param_shardings=places,
        attention=attention,
    )
    step = jax.jit(
        matmul.for_mesh(mesh)(
            make_train_step(
                model,
                optimizer,
                schedule,
                training.microbatches,
                chunk,
                parts,
                options=options,
                label_smoothing=training.label_smoothing,
                z_loss=training.z_loss,
            )
        ),
        in_shardings=(state_places, batch, *([whole] if options.dropout > 0 else [])),
        out_shardings=(state_places, whole),
        donate_argnums=0,
        compiler_options=compiler_options(meshes.mesh_platform(mesh)),
    )
    return Programs(
        abstract=abstract,
        places=places,
        batch=batch,
        init_params=jax.jit(model.init, out_shardings=places),
        split=jax.jit(
            lambda params, key: split(params, key=key),
            out_shardings=(learn_places, frozen_places),
            donate_argnums=0,
        ),
        # Without LoRA nothing is computed, and what is passed on as it is takes no memory.
        combine=jax.jit(trainable.combine, out_shardings=places) if training.lora.rank else trainable.combine,
        init_optimizer=jax.jit(optimizer.init, out_shardings=opt_places),
        step=step,
        attention=attention,
    )
