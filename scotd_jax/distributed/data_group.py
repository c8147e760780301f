"""Data groups: the hosts that together hold one copy of a model in sampling and evaluation, often a single one.

Every group generates the responses to its share of the questions. The hosts of a group run the same programs in step,
over the devices of the group, and the first of them writes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from scotd_jax import config
from scotd_jax.distributed.mesh import group_mesh_sizes, make_mesh
from scotd_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class DataGroup:
    """The data group of this process.

    Attributes:
      mesh: mesh of the devices of the group.
      run_mesh: mesh of the devices of all groups, one after the other along the axis `data`.
      index: index of the group.
      count: number of groups.
      writes: whether this process writes what the group generates.
    """

    mesh: Mesh
    run_mesh: Mesh
    index: int
    count: int
    writes: bool

    def share(self, items: list) -> list:
        """Returns the items of this group; the shares of all groups partition the list."""
        return items[self.index :: self.count]

    def own_copy(self, tree: Any) -> Any:
        """Returns the copy that this group has of arrays on `run_mesh` that are not sharded over `data`.

        Nothing is moved: the copy consists of the same buffers.
        """
        if self.run_mesh == self.mesh:
            return tree

        def own(array: jax.Array) -> jax.Array:
            assert isinstance(array.sharding, NamedSharding)
            sharding = NamedSharding(self.mesh, array.sharding.spec)
            buffers = [shard.data for shard in array.addressable_shards]
            return jax.make_array_from_single_device_arrays(array.shape, sharding, buffers)

        return jax.tree.map(own, tree)


def make_data_group(sampling: config.SamplingMesh, sizes: config.Mesh, mesh: Mesh) -> DataGroup:
    """Returns the data group of this process.

    Args:
      sampling: devices that share one copy of a model.
      sizes: sizes of the mesh of the whole run.
      mesh: mesh of the whole run.

    Raises:
      InputError: as `group_mesh_sizes`, and if the hosts have different numbers of devices.
    """
    by_process: dict[int, list[jax.Device]] = {}
    for device in sorted(mesh.devices.flat, key=lambda device: device.id):
        by_process.setdefault(device.process_index, []).append(device)
    processes, local = sorted(by_process), _local_devices({key: len(found) for key, found in by_process.items()})
    own_sizes = group_mesh_sizes(sampling, sizes, mesh.size, local)
    if len(by_process) == 1 and own_sizes == config.Mesh(**mesh.shape):
        return DataGroup(mesh, mesh, index=0, count=1, writes=True)
    hosts = own_sizes.data * own_sizes.fsdp * own_sizes.tensor // local
    meshes = [
        make_mesh(own_sizes, [device for process in processes[first : first + hosts] for device in by_process[process]])
        for first in range(0, len(processes), hosts)
    ]
    run_mesh = Mesh(np.concatenate([each.devices for each in meshes]), mesh.axis_names, axis_types=mesh.axis_types)
    index, member = divmod(processes.index(jax.process_index()), hosts)
    return DataGroup(meshes[index], run_mesh, index, len(meshes), writes=member == 0)


def _local_devices(counts: Mapping[int, int]) -> int:
    """The number of devices of every process, from the numbers by process."""
    if len(set(counts.values())) > 1:
        found = ", ".join(str(counts[process]) for process in sorted(counts))
        raise InputError(f"the processes have {found} devices; expected equal numbers. Give every process as many")
    return next(iter(counts.values()))
