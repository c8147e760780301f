"""Topology names, and meshes over devices that are not attached."""

import re

import pytest
from jax.sharding import PartitionSpec as P

from scotd_jax import config
from scotd_jax.distributed import sharding, topologies
from scotd_jax.distributed.chips import peak_flops
from scotd_jax.distributed.gpu_settings import gpu_memory_fraction
from scotd_jax.distributed.gpu_targets import gpu_targets
from scotd_jax.distributed.mesh import group_mesh_sizes, make_abstract_mesh, make_mesh
from scotd_jax.errors import InputError
from scotd_jax.models.api import Precision
from scotd_jax.models.registry import build, config_for


@pytest.mark.parametrize(
    ("name", "chips", "hosts", "shape", "host_shape"),
    [
        ("v4-32", 16, 4, "2x2x4", "2x2x1"),
        ("v5e-1", 1, 1, "1x1", "1x1"),
        ("v5e-8", 8, 1, "2x4", "2x4"),
        ("v5e-16", 16, 4, "4x4", "2x2"),
        ("v5p-8", 4, 1, "2x2x1", "2x2x1"),
        ("v5p-128", 64, 16, "4x4x4", "2x2x1"),
        ("v6e-256", 256, 64, "16x16", "2x2"),
        ("h200-8", 8, 1, "", ""),
        ("h100-16", 16, 2, "", ""),
        ("a100-80-8", 8, 1, "", ""),
        ("cpu-8", 8, 1, "", ""),
    ],
)
def test_topology_name_gives_chips_hosts_and_slice_shape(name, chips, hosts, shape, host_shape):
    topology = topologies.parse_topology(name)
    assert (topology.name, topology.chips, topology.hosts, topology.shape) == (name, chips, hosts, shape)
    assert (topology.host.chips, topology.host.hosts, topology.host.shape) == (chips // hosts, 1, host_shape)
    assert topologies.make_topology(topology.chip, chips) == topology


def test_describe_states_the_unit_that_the_name_counts():
    assert topologies.parse_topology("v5p-128").describe() == (
        "v5p-128: 64 v5p chips (4x4x4; the name counts TensorCores, 2 per chip) on 16 hosts"
    )
    assert topologies.parse_topology("v5e-16").describe() == "v5e-16: 16 v5e chips (4x4) on 4 hosts"
    assert topologies.parse_topology("h200-8").describe() == "h200-8: 8 h200 devices on 1 host"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5-16", "did you mean 'v5"),
        ("tpu", "expected KIND-NUMBER such as v5e-16"),
        ("v5e-12", "there is no 'v5e-12'; did you mean v5e-8 or v5e-16"),
        ("v5e-512", "did you mean v5e-128 or v5e-256"),
        ("v5p-12", "v5p counts TensorCores, 2 per chip.*did you mean v5p-8 or v5p-16"),
        ("v4-15", "did you mean v4-8 or v4-16"),
        ("h200-0", "did you mean h200-1 or h200-2"),
        ("v5e", "did you mean v5e-1 or"),
        ("8xh200", "is unknown"),
        ("a100-8", "'a100-8' is unknown; .*did you mean 'a100-80'"),
    ],
)
def test_unknown_topology_error_names_the_nearest(name, message):
    with pytest.raises(InputError, match=f"config.plan.topology: .*{message}"):
        topologies.parse_topology(name, "config.plan.topology")


def test_topology_states_why_it_cannot_compile(monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    for name, extra in (("h200-8", "gpu-plan"), ("v5e-8", "tpu")):
        topology = topologies.parse_topology(name)
        assert f"not installed (pip install -c constraints.txt -e '.[{extra}]'" in topologies.compile_obstacle(topology)
        with pytest.raises(InputError, match=rf"{name}: .* is not installed"):
            topologies.described_devices(topology)


def test_cuda_plugin_of_either_version_of_cuda_compiles(monkeypatch):
    def find_spec(name):
        if name != "jax_plugins.xla_cuda12":
            raise ModuleNotFoundError(name)  # as for a module in a package that is missing
        return object()

    monkeypatch.setattr(topologies.importlib.util, "find_spec", find_spec)
    assert topologies.compile_obstacle(topologies.parse_topology("h200-8")) == ""


@pytest.mark.parametrize("name", gpu_targets())
def test_description_of_a_gpu_limits_xla_to_the_usable_memory(name):
    target, chip = gpu_targets()[name], topologies.CHIPS[name]
    assert peak_flops(target.device_kind) == chip.peak
    assert chip.usable == int(gpu_memory_fraction() * target.memory)
    text = target.describe(chip.usable)
    fields = dict(re.findall(r"(\w+): ([^\s{}]+|\"[^\"]*\")", text))
    assert int(fields["device_memory_size"]) * 80 // 100 == pytest.approx(chip.usable, abs=1)
    assert int(fields["memory_bandwidth"]) == chip.bandwidth
    has_extension = target.compute_capability.endswith("a")
    assert fields["feature_extension"] == ("ACCELERATED_FEATURES" if has_extension else "NONE")
    capability = f"major: {target.compute_capability.split('.')[0]} minor: "
    assert f"cuda_compute_capability {{ {capability}" in text
    assert text.count("{") == text.count("}")


def test_cpu_topology_uses_local_devices():
    mesh = make_mesh(config.Mesh(fsdp=4), topologies.described_devices(topologies.parse_topology("cpu-8")))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4, "tensor": 1}


def test_abstract_mesh_gives_the_shardings_of_a_real_mesh():
    sizes = config.Mesh(fsdp=2, tensor=2)
    real, abstract = make_mesh(sizes), make_abstract_mesh(sizes, 8)
    shape = (8, 3, 4, 6)
    for make in (sharding.batch_sharding, lambda mesh: sharding.cache_sharding(mesh, shape)):
        assert make(abstract).spec == make(real).spec
        assert make(abstract).shard_shape(shape) == make(real).shard_shape(shape)
    assert sharding.cache_sharding(abstract, (8, 3, 4, 6, 5)).spec == P(("data", "fsdp"), None, "tensor", None, None)
    with pytest.raises(InputError, match="does not fit the 6 devices"):
        make_abstract_mesh(sizes, 6)


@pytest.mark.parametrize(
    ("tensor", "devices", "local", "expected"),
    [(1, 16, 4, 1), (4, 16, 4, 4), (8, 16, 4, 4), (2, 16, 8, 2), (3, 12, 4, 1), (-1, 16, 4, 4), (-1, 12, 4, 2)],
)
def test_each_host_shards_tensor_over_own_devices_by_default(tensor, devices, local, expected):
    sizes = config.Mesh(data=1 if tensor < 0 else -1, fsdp=2, tensor=tensor)
    found = group_mesh_sizes(config.SamplingMesh(), sizes, devices, local)
    assert found == config.Mesh(data=local // expected, tensor=expected)


@pytest.mark.parametrize(
    ("fsdp", "tensor", "devices", "local", "expected"),
    [
        (0, 2, 8, 8, (4, 1, 2)),  # four copies on one host
        (0, 2, 16, 4, (2, 1, 2)),  # two on each of four
        (0, 8, 16, 4, (1, 1, 8)),  # one on two hosts
        (2, 8, 16, 4, (1, 2, 8)),  # one on all
        (16, 0, 32, 4, (1, 16, 1)),
    ],
)
def test_sampling_mesh_spans_hosts(fsdp, tensor, devices, local, expected):
    found = group_mesh_sizes(config.SamplingMesh(fsdp, tensor), config.Mesh(fsdp=2), devices, local)
    assert (found.data, found.fsdp, found.tensor) == expected


@pytest.mark.parametrize(
    ("fsdp", "tensor", "devices", "local"),
    [(0, 3, 8, 4), (3, 2, 12, 4), (0, 16, 24, 4), (0, 32, 16, 4)],  # neither parts of hosts nor groups of them
)
def test_sampling_mesh_that_does_not_fit_raises(fsdp, tensor, devices, local):
    message = rf"config\.sampling_mesh: .*does not fit the {devices} devices of this run, {local} per host"
    with pytest.raises(InputError, match=message):
        group_mesh_sizes(config.SamplingMesh(fsdp, tensor), config.Mesh(), devices, local)


def test_cache_dtype_follows_the_platform_of_the_topology():
    shape = config_for("opt-tiny")
    for platform, dtype in (("", "float32"), ("cpu", "float32"), ("tpu", "bfloat16"), ("cuda", "bfloat16")):
        assert build(shape, Precision("bfloat16"), platform).new_cache(1, 1, 8, 8).keys[0].dtype == dtype
