"""The layers of a stack one after the other: written out, or rolled into one loop.

Written out, a compiler sees every layer by itself and takes time for each: XLA for TPUs minutes for a deep model. In a
loop it compiles one layer, forward and backward, however many there are, and is sure of the order of things.

The parameters of a model stay a tree with an entry per layer, so nothing outside of a training step knows of the loop.
Inside of it those of all layers are stacked, `[layers, ...]`, and the loop reads one slice after the other; derivatives
come out stacked and are taken apart. The stack is float32, as derivatives are, and lies split as its parameters are, so
that where these are gathered (fsdp), one layer is at a time. That costs a copy of the parameters and of their
gradient. A loop that is differentiated keeps what a layer keeps, stacked; slices of what it reads it does not keep.

All layers go the same way, so where some of them are frozen (trainable.py), derivatives of them are computed as well.
"""

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from scotd_jax.models.forward_options import ForwardOptions

Tree = Any


def through(
    step: Callable[..., tuple[Tree, Tree]],
    x: Tree,
    layers: Mapping[str, nnx.Module],
    shared: Tree,
    path: str,
    options: ForwardOptions,
) -> tuple[Tree, Tree]:
    """step(x, layer, its number, its part of `shared`) -> (x, kept), layer by layer; the last x, and what was kept.

    Where `step` keeps an array there is a tuple in the end, an entry per layer, or rolled one array whose first axis
    are the layers. `shared` is a tree of what was kept before, without other tuples. `path` is a layer's in the tree of
    the parameters, {} standing for its number.
    """
    if not options.scan_layers or len(layers) == 1:
        kept = []
        for i in range(len(layers)):
            with jax.named_scope(path.format(i).replace("/", "_")):
                part = jax.tree.map(operator.itemgetter(i), shared, is_leaf=lambda each: isinstance(each, tuple))
                x, one = step(x, layers[str(i)], i, part)
            kept.append(one)
        return x, jax.tree.map(lambda *each: each, *kept)
    structure, _ = nnx.split(layers["0"])

    def body(x, one):
        i, params, part = one
        return step(x, nnx.merge(structure, params), i, part)

    with jax.named_scope(path.format("all").replace("/", "_")):
        return jax.lax.scan(body, x, (jnp.arange(len(layers)), _stacked(layers, path, options.param_shardings), shared))


def _stacked(layers: Mapping[str, nnx.Module], path: str, places: Tree) -> Tree:
    """The parameters of all layers, `[layers, ...]` each, every layer's where that of the first lies."""
    params = [nnx.to_pure_dict(nnx.state(layers[str(i)])) for i in range(len(layers))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    if places is None:
        return stacked
    places = functools.reduce(lambda tree, key: tree[key], path.format(0).split("/"), places)
    return jax.tree.map(_held, stacked, places)


def _held(leaf: jax.Array, place: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(leaf, NamedSharding(place.mesh, PartitionSpec(None, *place.spec)))
