"""Scan over layers: one `jax.lax.scan` instead of an unrolled loop.

In an unrolled loop the compiler compiles every layer, which takes minutes for a deep model in XLA for TPUs. In a scan
it compiles one layer, forward and backward, whatever the depth, and the layers run in a fixed order.

The parameters stay a tree with one entry per layer, so nothing outside of a training step depends on the scan. Inside,
the parameters of all layers are stacked to [layers, ...] and the scan reads one slice after the other; gradients come
out stacked and are split again. The stacked parameters are float32, as gradients are, and are sharded like the
parameters, so that fsdp gathers one layer at a time. The price is a copy of the parameters and of their gradient. For
the backward pass a scan saves the stacked residuals of all layers, but no slices of the stacked parameters.

All layers are treated alike, so gradients are also computed for layers that are frozen (training/trainable.py).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from scotd_jax.models.forward_options import ForwardOptions

Tree = Any


def uses_scan(options: ForwardOptions, layers: Mapping[str, nnx.Module]) -> bool:
    """Whether to scan over these layers; a single layer is simply called."""
    return options.scan_layers and len(layers) > 1


def pick_by_layer(kinds: Sequence[int], choices: Sequence[Tree]) -> Callable[[int | Int[Array, ""]], Tree]:
    """Returns a function from the number of a layer, traced in a scan, to `choices[kinds[number]]`.

    Args:
      kinds: an index into `choices` for every layer; ignored if there is only one choice.
      choices: trees of arrays of one structure, whose leaves broadcast against each other.
    """

    def pick(layer: int | Int[Array, ""]) -> Tree:
        if len(choices) == 1:
            return choices[0]
        if isinstance(layer, int):
            return choices[kinds[layer]]
        kind = jnp.asarray(kinds)[layer]
        return jax.tree.map(lambda *leaves: jax.lax.select_n(kind, *jnp.broadcast_arrays(*leaves)), *choices)

    return pick


def scan_over_layers(
    step: Callable[..., tuple[Tree, Tree]],
    x: Tree,
    layers: Mapping[str, nnx.Module],
    per_layer: Tree,
    path: str,
    options: ForwardOptions,
    keep_outputs: bool = True,
) -> tuple[Tree, Tree]:
    """Computes `x, outputs[i] = step(x, layers[str(i)], i, per_layer[i])` for all layers in one scan.

    Args:
      step: runs one layer; `i` is traced.
      x: the input of the first layer.
      layers: modules of equal structure, by layer number.
      per_layer: a tree of arrays [layers, ...]; each layer takes its own slice.
      path: the path of a layer in the tree of parameters, with {} for its number.
      options: `param_shardings` shards the stacked parameters.
      keep_outputs: whether to return `outputs`.

    Returns:
      The output of the last layer, and the outputs of all layers, [layers, ...] each, or () if they are not kept.
    """
    structure, _ = nnx.split(layers["0"])

    def body(x, inputs):
        i, params, slices = inputs
        x, outputs = step(x, nnx.merge(structure, params), i, slices)
        return x, outputs if keep_outputs else ()

    with jax.named_scope(path.format("all").replace("/", "_")):
        numbers = jnp.arange(len(layers))
        params = _stacked_params(layers, path, options.param_shardings)
        return jax.lax.scan(body, x, (numbers, params, per_layer))


def _stacked_params(layers: Mapping[str, nnx.Module], path: str, param_shardings: Tree) -> Tree:
    """The parameters of all layers, [layers, ...] each, sharded like those of the first layer."""
    params = [nnx.to_pure_dict(nnx.state(layers[str(i)])) for i in range(len(layers))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    if param_shardings is None:
        return stacked
    layer_shardings = functools.reduce(lambda tree, key: tree[key], path.format(0).split("/"), param_shardings)
    return jax.tree.map(_constrain_stacked, stacked, layer_shardings)


def _constrain_stacked(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(leaf, NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec)))
