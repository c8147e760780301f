"""The jitted programs of training and the shardings of their arrays, shared by all runs with equal settings."""

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
from scotd_jax.models.api import LanguageModel, Params
from scotd_jax.models.forward_options import Attention, compiler_options
from scotd_jax.models.kernels import fused_attention
from scotd_jax.training.optimizer import make_optimizer, make_schedule
from scotd_jax.training.options import forward_options
from scotd_jax.training.step import TrainState, logits_chunk_tokens, make_train_step
from scotd_jax.training.trainable import combine, partition, partition_shardings


@dataclasses.dataclass(frozen=True)
class TrainingPrograms:
    """Jitted functions of one model, training config and mesh.

    Attributes:
      abstract_state: shapes, dtypes and shardings of the training state.
      param_shardings: shardings of the model parameters.
      batch_sharding: sharding of every array of a batch.
      init_params: draws model parameters from a key.
      partition: (params, key) -> trainable and frozen parameters; donates `params`.
      combine: (trainable, frozen) -> model parameters.
      init_optimizer: optimizer state of trainable parameters.
      step: the train step of `make_train_step`; donates the state.
      attention: the fused attention that `step` uses, if any.
      seen_shapes: shapes of the batches so far.
    """

    abstract_state: TrainState
    param_shardings: Params
    batch_sharding: jax.sharding.NamedSharding
    init_params: Callable[[jax.Array], Params]
    partition: Callable[[Params, jax.Array], tuple[Params, Params | None]]
    combine: Callable[[Params, Params | None], Params]
    init_optimizer: Callable[[Params], Any]
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    attention: Attention | None
    seen_shapes: set[Any] = dataclasses.field(default_factory=set)

    def is_new_shape(self, batch: Mapping[str, Mapping[str, jax.Array]]) -> bool:
        """Records the shape of a batch and returns whether it is new, so that `step` will be compiled for it."""
        shapes = tuple((name, key, array.shape) for name, part in batch.items() for key, array in part.items())
        is_new = shapes not in self.seen_shapes
        self.seen_shapes.add(shapes)
        return is_new

    def init_state(self, params: Params | None, seed: int) -> TrainState:
        """Returns the state before the first update.

        Args:
          params: initial parameters; None draws them from `seed`.
          seed: seed of initial parameters and LoRA matrices.
        """
        if params is None:
            params = self.init_params(jax.random.key(seed))
        else:
            params = sharding.shard_params(params, self.param_shardings)
        step = jax.device_put(jnp.zeros((), jnp.int32), self.abstract_state.step.sharding)
        trainable, frozen = params, None
        if self.abstract_state.frozen is not None:
            trainable, frozen = self.partition(params, jax.random.key(seed))
        return TrainState(step, trainable, self.init_optimizer(trainable), frozen)

    def model_params(self, state: TrainState) -> Params:
        """Returns the model parameters of a training state."""
        return state.params if state.frozen is None else self.combine(state.params, state.frozen)

    def dropout_seed(self, seed: int) -> jax.Array:
        """Returns the third argument of `step`, which dropout needs: the lowest 32 bits of the seed, on the devices."""
        return jax.device_put(np.uint32(seed % 2**32), self.abstract_state.step.sharding)


def training_programs(
    model: LanguageModel, training: config.Training, parts: Sequence[tuple[str, float]], mesh: sharding.AnyMesh
) -> TrainingPrograms:
    """Returns the programs of a training run.

    They are cached, so that students of one run that differ only in their data share their compilations.

    Args:
      model: the model to train.
      training: training settings.
      parts: names of the parts of a batch and weights of their losses.
      mesh: devices, possibly abstract ones.

    Raises:
      InputError: if `training.freeze` or `training.lora` do not fit the model, or `training.attention` does not fit the
        devices.
    """
    settings = {field.name: getattr(training, field.name) for field in dataclasses.fields(training)}
    compiled = {name: value for name, value in settings.items() if name not in _FIELDS_OUTSIDE_PROGRAMS}
    return _cached_programs(model, config.Training(**compiled), tuple(parts), mesh)


# Fields of config.Training that do not change a program. Batch shapes are part of jit's own cache key.
_FIELDS_OUTSIDE_PROGRAMS = (
    "balance_window",
    "batch_size",
    "eval_every",
    "group_size",
    "log_every",
    "max_shapes",
    "max_to_keep",
    "mlflow",
    "save_every",
    "save_minutes",
    "startup_check",
    "tensorboard",
    "wandb",
)


@functools.lru_cache(maxsize=8)
def _cached_programs(
    model: LanguageModel, training: config.Training, parts: tuple[tuple[str, float], ...], mesh: sharding.AnyMesh
) -> TrainingPrograms:
    optimizer = make_optimizer(training.optimizer, training.steps)
    partition_params = functools.partial(_partition, training)
    param_shardings = sharding.param_shardings(mesh, model.axes(), model.abstract())
    abstract, shardings = _abstract_state(model, training, optimizer, param_shardings, mesh)
    attention = fused_attention.select_attention(training.attention, mesh)
    replicated, batch_sharding = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    options = dataclasses.replace(
        forward_options(training, meshes.mesh_platform(mesh)),
        activation_sharding=batch_sharding if mesh.shape["fsdp"] > 1 else None,
        param_shardings=param_shardings,
        attention=attention,
    )
    step = make_train_step(
        model,
        optimizer,
        make_schedule(training.optimizer, training.steps),
        training.microbatches,
        logits_chunk_tokens(model.config.vocab_size, meshes.batch_shards(mesh)),
        parts,
        options=options,
        label_smoothing=training.label_smoothing,
        z_loss=training.z_loss,
        skips_nonfinite=training.on_divergence == "skip",
    )
    return TrainingPrograms(
        abstract_state=abstract,
        param_shardings=param_shardings,
        batch_sharding=batch_sharding,
        init_params=jax.jit(model.init, out_shardings=param_shardings),
        partition=jax.jit(partition_params, out_shardings=(shardings.params, shardings.frozen), donate_argnums=0),
        # Without LoRA, `combine` computes nothing; without jit, it returns its arguments and takes no memory.
        combine=jax.jit(combine, out_shardings=param_shardings) if training.lora.rank else combine,
        init_optimizer=jax.jit(optimizer.init, out_shardings=shardings.opt_state),
        step=jax.jit(
            matmul.for_mesh(mesh)(step),
            in_shardings=(shardings, batch_sharding, *([replicated] if options.dropout > 0 else [])),
            out_shardings=(shardings, replicated),
            donate_argnums=0,
            compiler_options=compiler_options(meshes.mesh_platform(mesh), mesh.size),
        ),
        attention=attention,
    )


def _partition(training: config.Training, params: Params, key: jax.Array) -> tuple[Params, Params | None]:
    return partition(params, training.freeze, training.lora, key)


def _abstract_state(
    model: LanguageModel,
    training: config.Training,
    optimizer: Any,
    param_shardings: Params,
    mesh: sharding.AnyMesh,
) -> tuple[TrainState, TrainState]:
    """The training state as abstract arrays with shardings, and the shardings alone."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    trainable, frozen = jax.eval_shape(functools.partial(_partition, training), model.abstract(), key)
    opt_state = jax.eval_shape(optimizer.init, trainable)
    trainable_shardings = partition_shardings(trainable, param_shardings)
    shardings = TrainState(
        step=sharding.replicated(mesh),  # pyrefly: ignore[bad-argument-type]
        params=trainable_shardings,
        opt_state=sharding.shardings_like(opt_state, trainable, trainable_shardings, mesh),
        frozen=partition_shardings(frozen, param_shardings),
    )
    abstract = jax.tree.map(
        lambda leaf, leaf_sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf_sharding),
        TrainState(jax.eval_shape(lambda: jnp.zeros((), jnp.int32)), trainable, opt_state, frozen),
        shardings,
    )
    return abstract, shardings
