"""Jitted programs with abstract arguments: shapes, dtypes and shardings without values.

With a mesh of described devices a program can be compiled. With an abstract mesh its costs can be counted.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from scotd_jax.jobs.planning.depth import with_layers
from scotd_jax.jobs.planning.workloads import Workload
from scotd_jax.models import api, registry


@dataclasses.dataclass(frozen=True)
class ProgramSpec:
    """A program and its abstract arguments.

    Attributes:
      function: jitted function.
      arguments: its arguments as trees of `jax.ShapeDtypeStruct`.
      persistent: arguments that stay in memory between calls, by name: "weights", "optimizer", "cache".
      buffers: large arrays that the program allocates, by name: those of `update_buffers` for "update", and the
        "context" of the prompts for "score".
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    persistent: dict[str, Any]
    buffers: dict[str, Any] = dataclasses.field(default_factory=dict)


def build_model(workload: Workload, platform: str, layers: int = 0) -> api.LanguageModel:
    """Returns the model of a workload with `layers` layers (0: the full depth)."""
    config = with_layers(workload.model_config, layers) if layers else workload.model_config
    return registry.build(config, api.Precision(workload.precision), platform)


def abstract_array(shape: tuple[int, ...], dtype: Any, sharding: NamedSharding | None) -> jax.ShapeDtypeStruct:
    """Returns an abstract array of a shape, type and sharding."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """Returns a tree of abstract arrays with the given shardings."""
    return jax.tree.map(lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), shapes, shardings)


def bytes_per_device(tree: Any) -> int:
    """Returns the bytes of a tree of abstract arrays on one device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            total += 8  # a key is two uint32
        else:
            shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
            total += math.prod(shape) * jnp.dtype(leaf.dtype).itemsize
    return total
