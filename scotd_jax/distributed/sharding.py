"""Where every array lives: one table from the logical axes of parameters to the axes of the mesh.

Models name the axes of their parameters ("vocab", "embed", "heads", "mlp"); this file alone knows what a mesh makes
of them. Everything else (optimizer state, batches) follows from that table.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

RULES = {"vocab": "tensor", "heads": "tensor", "mlp": "tensor", "embed": "fsdp"}

Tree = Any  # nested dict or other pytree
AnyMesh = Mesh | AbstractMesh  # an abstract one has sizes and no devices


def spec(mesh: AnyMesh, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> PartitionSpec:
    """How one parameter is split. An axis that its mesh axis does not divide, or whose mesh axis is taken, is whole."""
    taken: list[str | None] = []
    for name, size in zip(axes, shape, strict=True):
        axis = RULES.get(name) if name is not None else None
        fits = axis is not None and axis not in taken and size % mesh.shape[axis] == 0
        taken.append(axis if fits else None)
    return PartitionSpec(*taken)


def param_shardings(mesh: AnyMesh, axes: Tree, abstract: Tree) -> Tree:
    """A NamedSharding per parameter. `axes` is `model.axes()`, `abstract` is `model.abstract()`."""
    return jax.tree.map(
        lambda names, leaf: NamedSharding(mesh, spec(mesh, names, leaf.shape)),
        axes,
        abstract,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def shardings_like(tree: Tree, params: Tree, shardings: Tree, mesh: AnyMesh) -> Tree:
    """Shardings of a tree that contains copies of the parameters' tree (optimizer moments).

    A leaf whose path ends in the path of a parameter and which has that parameter's shape lies where the parameter
    lies; every other leaf (counters, factored moments) is replicated.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    known = {path: (leaf.shape, place) for (path, leaf), place in zip(leaves, jax.tree.leaves(shardings), strict=True)}

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        for start in range(len(path)):
            shape, sharding = known.get(path[start:], (None, None))
            if shape == leaf.shape:
                return sharding
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, tree)


def replicated(mesh: AnyMesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """The leading axis (questions) over data and fsdp; every other axis whole."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def cache_sharding(mesh: AnyMesh, shape: tuple[int, ...]) -> NamedSharding:
    """Keys and values [B, ..., K, T, Dh] over data and fsdp and over tensor, everything else over data and fsdp by its
    first axis, as far as the sizes allow."""
    split = mesh.shape["data"] * mesh.shape["fsdp"]
    axes: list[Any] = [("data", "fsdp") if axis == 0 and size % split == 0 else None for axis, size in enumerate(shape)]
    if len(shape) >= 4 and shape[-3] % mesh.shape["tensor"] == 0:
        axes[-3] = "tensor"
    return NamedSharding(mesh, PartitionSpec(*axes))


def place_cache(mesh: AnyMesh | None, tree: Tree) -> Tree:
    """Inside of a compiled function: every array where `cache_sharding` says. No mesh: the tree as it is."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, cache_sharding(mesh, leaf.shape)), tree)


def place_batch(batch: Tree, sharding: NamedSharding) -> Tree:
    """This process's rows of a batch as arrays over the whole mesh. Rows of process i follow those of process i - 1."""
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    with jax.transfer_guard_host_to_device("allow"):  # this is the transfer that is meant
        return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def place_params(params: Tree, shardings: Tree) -> Tree:
    """Copies of host or device arrays over the mesh; each process hands over the whole of every parameter.

    Copies, because training gives its buffers away: the caller's arrays must outlive it.
    """

    def place(value: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(value, jax.Array):
            return jax.device_put(value, sharding, may_alias=False)
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(place, params, shardings)
