"""Settings of XLA for GPUs: the environment of the user takes precedence, and the compiled program changes."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from scotd_jax import config
from scotd_jax.distributed import topologies
from scotd_jax.distributed.gpu_settings import (
    GPU_MEMORY_VARIABLES,
    gpu_compiler_options,
    gpu_memory_fraction,
    set_gpu_memory_fraction,
)
from scotd_jax.distributed.mesh import make_mesh
from scotd_jax.models.forward_options import compiler_options

REDUCE = "xla_gpu_enable_pipelined_all_reduce"


@pytest.fixture
def no_environment(monkeypatch):
    """None of the variables is set, and those that a test sets are removed afterwards."""
    for name in (*GPU_MEMORY_VARIABLES, "XLA_FLAGS"):
        monkeypatch.setenv(name, "")


@pytest.mark.parametrize("name", GPU_MEMORY_VARIABLES)
def test_share_of_the_memory_is_that_of_the_user(no_environment, monkeypatch, name):
    monkeypatch.setenv(name, "0.5")
    set_gpu_memory_fraction()
    assert gpu_memory_fraction() == 0.5


def test_command_line_uses_more_memory_than_the_default_of_jax(no_environment):
    assert gpu_memory_fraction() == 0.75
    set_gpu_memory_fraction()
    assert gpu_memory_fraction() == 0.9


def test_flags_of_the_user_replace_compiler_options(no_environment, monkeypatch):
    options = gpu_compiler_options(8)
    assert options[REDUCE] is True
    monkeypatch.setenv("XLA_FLAGS", f"--{REDUCE}=false --xla_gpu_enable_pipelined_p2p=true")
    assert gpu_compiler_options(8) == {name: value for name, value in options.items() if name != REDUCE}


def test_options_are_for_several_gpus_only(no_environment):
    assert compiler_options("gpu", 8) == gpu_compiler_options(8)
    assert compiler_options("gpu", 1) is compiler_options("tpu", 8) is None
    assert REDUCE not in compiler_options("cpu", 8)


@pytest.mark.compile
@pytest.mark.parametrize("name", ["h200-8", "h100-16"])
def test_options_overlap_gradients_of_scanned_layers_with_matmuls(no_environment, name):
    topologies.use_cpu_only(1)
    topology = topologies.parse_topology(name)
    if obstacle := topologies.compile_obstacle(topology):
        pytest.skip(obstacle)
    mesh = make_mesh(config.Mesh(data=1, fsdp=-1), topologies.described_devices(topology))
    by_layer, by_question = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((None, "fsdp"), ("fsdp",)))
    kernels = jax.ShapeDtypeStruct((8, 2048, 2048), jnp.float32, sharding=by_layer)
    questions = jax.ShapeDtypeStruct((4096, 2048), jnp.float32, sharding=by_question)

    def loss(kernels, hidden):
        return jnp.sum(jax.lax.scan(lambda h, kernel: (jnp.tanh(h @ kernel), None), hidden, kernels)[0])

    lowered = jax.jit(jax.grad(loss), out_shardings=by_layer).lower(kernels, questions)
    default, tuned = (
        matmuls_during_reduce_scatter(lowered.compile(options).as_text())
        for options in (None, gpu_compiler_options(topology.chips))
    )
    assert max(default) < max(tuned)


def matmuls_during_reduce_scatter(text: str) -> list[int]:
    """Returns the number of matmuls between start and end of each reduce-scatter of a compiled program."""
    counts, running = [], {}
    for line in text.splitlines():
        if started := re.search(r"%(\S+) = .* reduce-scatter-start\(", line):
            running[started[1]] = 0
        elif done := re.search(r" reduce-scatter-done\(%?([\w.-]+)\)", line):
            counts.append(running.pop(done[1]))
        elif re.search(r"%gemm_fusion\S* = .* fusion\(", line):
            running = {name: count + 1 for name, count in running.items()}
    assert counts, "the program has no reduce-scatter"
    return counts
