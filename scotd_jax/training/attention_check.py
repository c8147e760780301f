"""Check of fused attention: before the first update, compares its values and gradients with those of XLA's attention.

The kernels are written for hardware that few developers have at hand, and compilers change. So every run compares them
on its own devices, on random arrays of the shapes in which the model calls attention for the first batch. The startup
check (startup_check.py) compares the whole forward pass, but no gradients, which would need the memory of an update.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from scotd_jax import config, progress
from scotd_jax.distributed import mesh as meshes
from scotd_jax.distributed import sharding
from scotd_jax.models.api import LanguageModel, Params
from scotd_jax.models.attention import grouped_attention
from scotd_jax.models.forward_options import Attention, ForwardOptions
from scotd_jax.training.programs import TrainingPrograms, training_programs
from scotd_jax.training.startup_check import TOLERANCE, check_against_pairs
from scotd_jax.training.step import hidden_states

HostBatch = Mapping[str, Mapping[str, np.ndarray]]


def checked_programs(
    programs: TrainingPrograms,
    model: LanguageModel,
    training: config.Training,
    parts: Sequence[tuple[str, float]],
    mesh: jax.sharding.Mesh,
    params: Params,
    batch: HostBatch,
) -> TrainingPrograms:
    """Runs the startup check and the check of fused attention, and returns the programs to train with.

    With `training.attention="auto"`, fused attention that cannot be compiled or computes something else is replaced by
    XLA's, with a warning.

    Raises:
      RuntimeError: if a check fails for another reason, or with `training.attention="fused"`.
    """
    if programs.attention is not None:
        try:
            check_attention(model, batch, mesh, programs.attention)
            check_against_pairs(model, params, batch, mesh, programs.attention)
            return programs
        except (RuntimeError, ValueError) as error:  # compilers raise both
            if training.attention == "fused":
                raise
            progress.log(
                f"WARNING: fused attention fails on these devices ({type(error).__name__}: {error}). This run trains "
                'with training.attention="xla", which needs more memory and time',
                process_index=jax.process_index(),
            )
            programs = training_programs(model, dataclasses.replace(training, attention="xla"), parts, mesh)
    check_against_pairs(model, params, batch, mesh)
    return programs


def check_attention(model: LanguageModel, batch: HostBatch, mesh: jax.sharding.Mesh, attention: Attention) -> float:
    """Returns the largest relative difference between outputs and gradients of `attention` and of XLA's attention.

    Raises:
      RuntimeError: if it is larger than rounding explains.
    """
    calls = {call for part in batch.values() for call in _attention_calls(model, part, meshes.batch_shards(mesh))}
    allowed, largest = TOLERANCE[model.precision.compute], 0.0
    for leaves, structure, scale in sorted(calls, key=str):
        differences = _compiled_differences(mesh, attention, leaves, structure, scale)(np.uint32(0))
        largest = max(largest, *(difference := np.asarray(differences).tolist()))
        if not all(x <= allowed for x in difference):
            raise RuntimeError(
                f"training.startup_check: fused attention and its gradients differ from XLA's by "
                f"{', '.join(f'{100 * x:.2g}' for x in difference)} % (output, then gradients of queries, keys and "
                f"values), rounding explains at most {100 * allowed:g} %; queries {leaves[0].shape}. Your settings are "
                'not the cause; training.attention="xla" trains without fused attention'
            )
    return largest


def _attention_calls(model: LanguageModel, part: Mapping[str, np.ndarray], rows: int) -> set[Any]:
    """Returns the different calls of attention in a forward pass over `rows` rows, as hashable tuples.

    They consist of the shapes of all arrays, the structure of the arguments, and the scale.
    """
    calls = set()

    def record(query: Array, segments: Sequence[Any], own: Sequence[Any], scale: float) -> Array:
        leaves, structure = jax.tree.flatten((query, list(segments), list(own)))
        calls.add((tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves), structure, scale))
        return grouped_attention(query, segments, own, scale)

    arrays = {key: jax.ShapeDtypeStruct((rows, *array.shape[1:]), array.dtype) for key, array in part.items()}
    forward = functools.partial(hidden_states, model, options=ForwardOptions(attention=record))
    jax.eval_shape(forward, model.abstract(), arrays)
    return calls


@functools.lru_cache(maxsize=16)
def _compiled_differences(
    mesh: jax.sharding.Mesh, attention: Attention, leaves: Sequence[jax.ShapeDtypeStruct], structure: Any, scale: float
) -> Callable[[np.uint32], Array]:
    """A jitted function of a seed that returns the relative differences of output and gradients."""

    @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
    def differences(seed):
        *keys, last = jax.random.split(jax.random.key(seed), len(leaves) + 1)
        arrays = [_random(key, leaf, mesh) for key, leaf in zip(keys, leaves, strict=True)]
        d_out = _random(last, leaves[0], mesh)
        fused, plain = (
            [x.astype(jnp.float32).ravel() for x in _output_and_gradients(function, scale, structure, arrays, d_out)]
            for function in (attention, grouped_attention)
        )
        norm = jnp.linalg.norm
        return jnp.stack([norm(x - y) / norm(y) for x, y in zip(fused, plain, strict=True)])

    return differences


def _random(key: Key[Array, ""], leaf: jax.ShapeDtypeStruct, mesh: jax.sharding.Mesh) -> Array:
    """Normally distributed numbers; or a mask with gaps, which is causal where it has rows."""
    if leaf.dtype == jnp.bool_:
        array = jax.random.bernoulli(key, 0.9, leaf.shape)
        if leaf.ndim == 4 and leaf.shape[2] > 1:
            array &= jnp.tril(jnp.ones(leaf.shape, bool))
    else:
        array = jax.random.normal(key, leaf.shape, jnp.float32).astype(leaf.dtype)
    is_divided = leaf.shape[0] % meshes.batch_shards(mesh) == 0
    batch_or_replicated = sharding.batch_sharding(mesh) if is_divided else sharding.replicated(mesh)
    return jax.lax.with_sharding_constraint(array, batch_or_replicated)


def _output_and_gradients(
    attention: Attention, scale: float, structure: Any, leaves: Sequence[Array], d_out: Array
) -> list[Array]:
    is_float = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

    def call(floats: Sequence[Array]) -> Array:
        remaining = iter(floats)
        return attention(
            *structure.unflatten([next(remaining) if f else x for f, x in zip(is_float, leaves, strict=True)]), scale
        )

    out, backward = jax.vjp(call, [leaf for leaf, f in zip(leaves, is_float, strict=True) if f])
    return [out, *backward(d_out)[0]]
