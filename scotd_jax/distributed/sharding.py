"""Sharding of parameters, batches and caches over the mesh.

Models name the logical axes of their parameters ("vocab", "embed", "heads", "kv", "mlp"). `LOGICAL_AXIS_RULES` maps
these to mesh axes, and the shardings of optimizer states follow from those of the parameters.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

LOGICAL_AXIS_RULES = {"vocab": "tensor", "heads": "tensor", "kv": "tensor", "mlp": "tensor", "embed": "fsdp"}

Tree = Any  # nested dict or other pytree
AnyMesh = Mesh | AbstractMesh


def partition_spec(mesh: AnyMesh, axes: tuple[Any, ...], shape: tuple[int, ...]) -> PartitionSpec:
    """Returns the PartitionSpec of one parameter.

    A dimension is not sharded if its mesh axis does not divide it or already shards another dimension.

    Args:
      mesh: the mesh.
      axes: the logical axis of each dimension: a name, None, or (name, count) for a dimension of `count` heads. Heads
        stay whole, because a device with a part of a head cannot compute its scores.
      shape: the sizes of the dimensions.
    """
    spec: list[str | None] = []
    for name, size in zip(axes, shape, strict=True):
        if isinstance(name, tuple):
            name, size = name
        axis = LOGICAL_AXIS_RULES.get(name) if name is not None else None
        is_sharded = axis is not None and axis not in spec and size % mesh.shape[axis] == 0
        spec.append(axis if is_sharded else None)
    return PartitionSpec(*spec)


def param_shardings(mesh: AnyMesh, axes: Tree, abstract: Tree) -> Tree:
    """Returns a NamedSharding per parameter.

    Args:
      mesh: the mesh.
      axes: `model.axes()`, the logical axis names of every parameter.
      abstract: `model.abstract()`, the shapes of the parameters.
    """
    return jax.tree.map(
        lambda names, leaf: NamedSharding(mesh, partition_spec(mesh, names, leaf.shape)),
        axes,
        abstract,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def shardings_like(tree: Tree, params: Tree, shardings: Tree, mesh: AnyMesh) -> Tree:
    """Returns shardings of an optimizer state, which contains trees of moments that are nested like the parameters.

    A leaf is sharded like a parameter if its path ends in the path of that parameter and the shapes agree. All other
    leaves (counters, factored moments) are replicated.

    Args:
      tree: the optimizer state, possibly abstract.
      params: the parameters, possibly abstract.
      shardings: shardings of the parameters.
      mesh: the mesh of the replicated leaves.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    by_path = {
        path: (leaf.shape, sharding) for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True)
    }

    def sharding_of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        for start in range(len(path)):
            shape, sharding = by_path.get(path[start:], (None, None))
            if shape == leaf.shape:
                return sharding
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(sharding_of, tree)


def replicated(mesh: AnyMesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds in full."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """Returns the sharding of batches: the leading axis (questions) over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def cache_sharding(mesh: AnyMesh, shape: tuple[int, ...]) -> NamedSharding:
    """Returns the sharding of one array of a KV cache.

    The leading axis is sharded over `data` and `fsdp`, and the heads K of keys and values [B, ..., K, T, Dh] over
    `tensor`. An axis that the devices do not divide is not sharded.
    """
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    axes: list[Any] = [
        ("data", "fsdp") if axis == 0 and size % shards == 0 else None for axis, size in enumerate(shape)
    ]
    if len(shape) >= 4 and shape[-3] % mesh.shape["tensor"] == 0:
        axes[-3] = "tensor"
    return NamedSharding(mesh, PartitionSpec(*axes))


def constrain_cache(mesh: AnyMesh | None, tree: Tree) -> Tree:
    """Constrains every array of a cache to its `cache_sharding` inside a compiled function. No-op without a mesh."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, cache_sharding(mesh, leaf.shape)), tree)


def put_equal(tree: Tree, sharding: NamedSharding) -> Tree:
    """Copies arrays of the host to the devices. All processes of the mesh must pass equal ones, which is not checked.

    Other than `jax.device_put` it does not communicate, so it does not wait for the other processes.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda value: jax.make_array_from_callback(np.shape(value), sharding, lambda index: np.asarray(value)[index]),
        tree,
    )


def fetch(tree: Tree) -> Tree:
    """Returns arrays as NumPy arrays, on every process of their mesh, all of which must call it."""
    for array in jax.tree.leaves(tree):
        if not array.is_fully_addressable and not array.is_fully_replicated:
            tree = _replicate_fn(array.sharding.mesh)(tree)
            break
    return jax.device_get(tree)


@functools.cache
def _replicate_fn(mesh: Mesh) -> Callable[[Tree], Tree]:
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))


def shard_batch(batch: Tree, sharding: NamedSharding) -> Tree:
    """Returns global arrays made of the rows that each process has loaded, in the order of the processes."""
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    with jax.transfer_guard_host_to_device("allow"):  # the training loop disallows implicit transfers
        return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def shard_params(params: Tree, shardings: Tree) -> Tree:
    """Copies parameters to the devices. Every process must pass every parameter in full.

    The result never aliases the arguments, because training donates the result and the caller keeps the arguments.
    """

    def shard(value: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(value, jax.Array):
            return jax.device_put(value, sharding, may_alias=False)
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(shard, params, shardings)
