"""Data groups of a run in one process; several processes are in tests/end_to_end and tests/faults."""

import jax
import numpy as np
import pytest

from scotd_jax import config
from scotd_jax.distributed import data_group
from scotd_jax.distributed.data_group import DataGroup, make_data_group
from scotd_jax.distributed.mesh import make_mesh
from scotd_jax.errors import InputError


def test_shares_of_all_groups_partition_the_items(one_device):
    shares = [DataGroup(one_device, one_device, index, 3, writes=True).share(list(range(8))) for index in range(3)]
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]


def test_one_process_generates_on_the_mesh_of_training_by_default():
    sizes = config.Mesh(fsdp=2)
    mesh = make_mesh(sizes)
    group = make_data_group(config.SamplingMesh(), sizes, mesh)
    assert (group.mesh, group.run_mesh, group.count, group.writes) == (mesh, mesh, 1, True)
    tree = {"kernel": jax.device_put(np.ones(8), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp")))}
    assert group.own_copy(tree) is tree


def test_one_process_generates_on_another_mesh_if_the_config_sets_one():
    sizes = config.Mesh(data=1, fsdp=8)
    group = make_data_group(config.SamplingMesh(tensor=4), sizes, make_mesh(sizes))
    assert dict(group.mesh.shape) == {"data": 2, "fsdp": 1, "tensor": 4}
    assert group.run_mesh == group.mesh
    assert (group.index, group.count, group.writes) == (0, 1, True)


def test_hosts_with_different_numbers_of_devices_are_refused():
    assert data_group._local_devices({0: 4, 1: 4}) == 4
    with pytest.raises(InputError, match="the processes have 4, 3 devices; expected equal numbers"):
        data_group._local_devices({1: 3, 0: 4})
