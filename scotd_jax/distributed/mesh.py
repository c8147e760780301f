"""One mesh with three named axes, always all three: an axis that is not used has size 1.

`data` and `fsdp` split the questions of a batch; `fsdp` splits the parameters too, which are gathered where they are
used; `tensor` splits heads, hidden units and the vocabulary.
"""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType

from scotd_jax import config
from scotd_jax.errors import InputError

AXES = ("data", "fsdp", "tensor")


def make_mesh(sizes: config.Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """The mesh of `sizes` over `devices` (all of them if None), laid out along the machine's own topology.

    Raises InputError if more than one size is -1, a size is zero, or the sizes do not use every device.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = {axis: getattr(sizes, axis) for axis in AXES}
    written = ", ".join(f"{axis}={size}" for axis, size in shape.items())
    free = [axis for axis, size in shape.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in shape.values()):
        raise InputError(f"config.mesh: {written}; sizes are positive and at most one of them is -1 (what is left)")
    named = math.prod(size for size in shape.values() if size != -1)
    if free:
        shape[free[0]] = len(devices) // named
    if math.prod(shape.values()) != len(devices):
        raise InputError(
            f"config.mesh: {written} does not fit the {len(devices)} devices of this run; "
            "the product of the sizes must be the number of devices, and one size may be -1"
        )
    return jax.make_mesh(tuple(shape.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_shards(mesh: jax.sharding.Mesh) -> int:
    """Into how many parts the questions of a batch are split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]
