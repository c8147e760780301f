"""Device meshes with the axes `data`, `fsdp` and `tensor`. Every mesh has all three; an unused axis has size 1.

`data` and `fsdp` shard the questions of a batch. `fsdp` also shards the parameters, which are gathered for each use.
`tensor` shards heads, hidden units and the vocabulary.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import jax
from jax.sharding import AxisType

from scotd_jax import config
from scotd_jax.errors import InputError, SizesError

AXES = ("data", "fsdp", "tensor")
MeshType = TypeVar("MeshType", jax.sharding.Mesh, jax.sharding.AbstractMesh)


def make_mesh(sizes: config.Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """Returns a mesh over `devices` (default: all), ordered by the physical topology.

    Raises:
      InputError: as `mesh_shape`.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = tuple(mesh_shape(sizes, len(devices)).values())
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def make_abstract_mesh(sizes: config.Mesh, devices: int) -> jax.sharding.AbstractMesh:
    """Returns a mesh without devices, which is enough to compute shardings.

    Raises:
      InputError: as `mesh_shape`.
    """
    shape = tuple(mesh_shape(sizes, devices).values())
    return jax.sharding.AbstractMesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_shape(sizes: config.Mesh, devices: int) -> dict[str, int]:
    """Returns the number of devices along each axis, with -1 resolved.

    Raises:
      InputError: if more than one size is -1, or a size is zero or below -1. If the product of the sizes is not the
        number of devices, it is a `SizesError`.
    """
    shape = {axis: getattr(sizes, axis) for axis in AXES}
    text = ", ".join(f"{axis}={size}" for axis, size in shape.items())
    free = [axis for axis, size in shape.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in shape.values()):
        raise InputError(f"config.mesh: {text}; sizes are positive, and at most one is -1 (all remaining devices)")
    fixed = math.prod(size for size in shape.values() if size != -1)
    if free:
        shape[free[0]] = devices // fixed
    if math.prod(shape.values()) != devices:
        raise SizesError(
            f"config.mesh: {text} does not fit the {devices} devices of this run; "
            "the product of the sizes must be the number of devices, and one size may be -1"
        )
    return shape


def group_mesh_sizes(
    sampling: config.SamplingMesh, sizes: config.Mesh, devices: int, local_devices: int
) -> config.Mesh:
    """Returns the sizes of the mesh of each data group (data_group.py), whose product is its number of devices.

    If `sampling` sets no sizes, a run on one host generates on its mesh. Of several hosts each is a data group, whose
    devices shard models over `tensor` as far as possible, and questions over the rest: gathering parameters for every
    token costs more than it saves.

    Args:
      sampling: devices that share one copy of a model.
      sizes: mesh of the whole run.
      devices: devices of the whole run.
      local_devices: devices of each host.

    Raises:
      InputError: as `mesh_shape`. If the devices cannot be divided into such groups, it is a `SizesError`.
    """
    shape = mesh_shape(sizes, devices)
    if not sampling.fsdp and not sampling.tensor:
        if devices == local_devices:
            return config.Mesh(**shape)
        tensor = math.gcd(shape["tensor"], local_devices)
        return config.Mesh(data=local_devices // tensor, tensor=tensor)
    fsdp, tensor = max(1, sampling.fsdp), max(1, sampling.tensor)
    copy, group = fsdp * tensor, max(fsdp * tensor, local_devices)
    if group % copy or group % local_devices or devices % group:
        raise SizesError(
            f"config.sampling_mesh: fsdp={fsdp}, tensor={tensor} does not fit the {devices} devices of this run, "
            f"{local_devices} per host; the product must divide the devices of a host, or be those of several hosts "
            "into whose number all hosts can be divided"
        )
    return config.Mesh(data=group // copy, fsdp=fsdp, tensor=tensor)


def batch_shards(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> int:
    """Returns the number of shards into which the questions of a batch are split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def mesh_platform(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> str:
    """Returns the platform of the devices ("cpu", "gpu", "tpu"), or "" for an abstract mesh."""
    return "" if isinstance(mesh, jax.sharding.AbstractMesh) else mesh.devices.flat[0].platform


def most_sharded(*meshes: MeshType) -> MeshType:
    """Returns the mesh that splits parameters between most devices, the first of several."""
    return max(meshes, key=lambda mesh: mesh.shape["fsdp"] * mesh.shape["tensor"])
