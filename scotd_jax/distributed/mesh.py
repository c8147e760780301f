"""One mesh with three named axes, always all three: an axis that is not used has size 1.

`data` and `fsdp` split the questions of a batch; `fsdp` splits the parameters too, which are gathered where they are
used; `tensor` splits heads, hidden units and the vocabulary.
"""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType

from scotd_jax import config
from scotd_jax.errors import InputError, SizesError

AXES = ("data", "fsdp", "tensor")


def shape_of(sizes: config.Mesh, devices: int) -> dict[str, int]:
    """Devices along each axis, -1 filled in.

    Raises InputError if more than one size is -1 or a size is zero, SizesError if they do not use every device.
    """
    shape = {axis: getattr(sizes, axis) for axis in AXES}
    written = ", ".join(f"{axis}={size}" for axis, size in shape.items())
    free = [axis for axis, size in shape.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in shape.values()):
        raise InputError(f"config.mesh: {written}; sizes are positive and at most one of them is -1 (what is left)")
    named = math.prod(size for size in shape.values() if size != -1)
    if free:
        shape[free[0]] = devices // named
    if math.prod(shape.values()) != devices:
        raise SizesError(
            f"config.mesh: {written} does not fit the {devices} devices of this run; "
            "the product of the sizes must be the number of devices, and one size may be -1"
        )
    return shape


def own_sizes(sizes: config.Mesh, devices: int, own: int) -> config.Mesh:
    """The mesh on which a process speaks that has `own` of all `devices`: models are split by `tensor` as far as its
    own go, and questions over what is left. A gather of parameters per token (`fsdp`) would cost more than it saves.

    Raises InputError as `shape_of` does.
    """
    return config.Mesh(tensor=math.gcd(shape_of(sizes, devices)["tensor"], own))


def make_mesh(sizes: config.Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """The mesh of `sizes` over `devices` (all of them if None), laid out along the machine's own topology.

    Raises InputError as `shape_of` does.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = tuple(shape_of(sizes, len(devices)).values())
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def abstract_mesh(sizes: config.Mesh, devices: int) -> jax.sharding.AbstractMesh:
    """The same without devices: enough to say how arrays are cut. Raises InputError as `shape_of` does."""
    shape = tuple(shape_of(sizes, devices).values())
    return jax.sharding.AbstractMesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_shards(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> int:
    """Into how many parts the questions of a batch are split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def platform(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> str:
    """What its devices are ("cpu", "gpu", "tpu"); "" where there are none."""
    return "" if isinstance(mesh, jax.sharding.AbstractMesh) else mesh.devices.flat[0].platform
