"""Settings of XLA for NVIDIA GPUs. What the user sets in the environment takes precedence."""

import os
import re

# JAX's variables for its share of the memory of GPUs, the second deprecated; both together are an error.
GPU_MEMORY_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
# The rest is for CUDA's context, NCCL's buffers and the workspaces of libraries.
_MEMORY_FRACTION = 0.9
# Compiler options for several GPUs, found by reading compiled updates with a scan over layers and `fsdp` (XLA of jax
# 0.10.2). By default XLA schedules to hide latency, combines the gathers of one layer, and starts every collective
# early; but no matmul runs while a layer's gradients are scattered. Pipelined into the next iteration, 14 of them do.
# Larger thresholds for combining left four data-parallel gradients of 64 MiB as one all-reduce, which waits for all.
_SEVERAL_GPUS = {
    "xla_gpu_enable_pipelined_all_reduce": True,
    "xla_gpu_enable_pipelined_reduce_scatter": True,
}


def gpu_compiler_options(devices: int) -> dict[str, bool]:
    """Returns the compiler options of a program on that many GPUs, without those that XLA_FLAGS sets."""
    options = _SEVERAL_GPUS if devices > 1 else {}
    set_by_user = re.findall(r"--(\w+)", os.environ.get("XLA_FLAGS", ""))
    return {name: value for name, value in options.items() if name not in set_by_user}


def set_gpu_memory_fraction() -> None:
    """Sets the share of a GPU's memory that JAX allocates. Call it before JAX uses a device."""
    if not any(os.environ.get(name) for name in GPU_MEMORY_VARIABLES):
        os.environ[GPU_MEMORY_VARIABLES[0]] = str(_MEMORY_FRACTION)


def gpu_memory_fraction() -> float:
    """Returns the share of a GPU's memory that JAX allocates: that of the environment, or JAX's default."""
    values = (os.environ.get(name) for name in GPU_MEMORY_VARIABLES)
    return float(next(filter(None, values), 0.75))
