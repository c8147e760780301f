"""Memory and FLOPs of programs per chip, from compiling them with XLA.

Updates that scan over layers are compiled at full depth, since their compile time does not depend on it. XLA takes many
minutes for other programs of deep models, so programs of more than `plan.compile_layers` layers are extrapolated from
two shallow models. XLA rematerializes some arrays when memory is short. Shallow models are not short of memory, so the
extrapolation tends to overestimate. Updates with patterns of trainable parameters (`training.freeze`, `training.lora`)
are compiled at full depth, because the patterns may name layers.
"""

import dataclasses
import re
import time
from typing import Any

import jax
from jax.sharding import Mesh

from scotd_jax.jobs.planning.depth import Costs, extrapolate, measured_depths, num_layers
from scotd_jax.jobs.planning.estimates import ProgramCost, estimate_programs, workload_programs
from scotd_jax.jobs.planning.program_specs import ProgramSpec, bytes_per_device
from scotd_jax.jobs.planning.workloads import TrainingWorkload, Workload
from scotd_jax.training.options import scans_layers


def compile_programs(workload: Workload, mesh: Mesh, platform: str, max_layers: int) -> list[ProgramCost]:
    """Compiles the programs of a workload and returns their costs.

    Args:
      workload: the workload.
      mesh: mesh of described devices.
      platform: platform of the devices.
      max_layers: depth above which programs without a scan over layers are extrapolated (0: never).

    Raises:
      InputError: as `training_program`.
    """
    full = num_layers(workload.model_config)
    scans = isinstance(workload, TrainingWorkload) and scans_layers(workload.settings, platform)
    depths = measured_depths(workload, max_layers) if max_layers and not scans else (full,)
    results = [_compile(workload, mesh, platform, depth) for depth in depths]
    method = "compiled" if len(depths) == 1 else f"compiled with {depths[0]} and {depths[1]} of {full} layers"
    method += ", scan over layers" if scans and full > 1 else ""
    programs = []
    for estimate in estimate_programs(workload, mesh, platform):
        costs = extrapolate(full, depths, [result[estimate.name] for result in results])
        compiled_bytes = {name: max(0, round(costs[name])) for name in ("temporaries", "code")}
        program = dataclasses.replace(
            estimate,
            bytes={**estimate.bytes, **compiled_bytes},
            xla_flops=costs["flops"],
            method=method,
            compile_seconds=float(sum(result[estimate.name]["seconds"] for result in results)),
        )
        programs.append(program)
    return programs


class _Compiler:
    """Compiles every ProgramSpec once, although both its output shardings and its costs are needed."""

    def __init__(self):
        self._done: dict[
            int, tuple[ProgramSpec, Any, float]
        ] = {}  # by id; stores the spec, so that its id is not reused

    def compile(self, spec: ProgramSpec) -> Any:
        if id(spec) not in self._done:
            start = time.monotonic()
            compiled = spec.function.lower(*spec.arguments).compile()  # pyrefly: ignore[missing-attribute]
            self._done[id(spec)] = spec, compiled, time.monotonic() - start
        return self._done[id(spec)][1]

    def seconds(self, spec: ProgramSpec) -> float:
        return self._done[id(spec)][2]


def _compile(workload: Workload, mesh: Mesh, platform: str, layers: int) -> dict[str, Costs]:
    """Costs of every program at one depth."""
    compiler = _Compiler()
    specs = workload_programs(workload, mesh, platform, layers, lambda spec: compiler.compile(spec).output_shardings)
    results: dict[str, Costs] = {}
    for name, spec in specs.items():
        start = time.monotonic()
        try:
            compiled = compiler.compile(spec)
        except jax.errors.JaxRuntimeError as error:
            results[name] = _out_of_memory_costs(error, spec) | {"seconds": time.monotonic() - start}
            continue
        memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
        new_outputs = max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes)
        results[name] = {
            "temporaries": memory.temp_size_in_bytes + new_outputs,
            "code": memory.generated_code_size_in_bytes,
            "flops": cost.get("flops", 0.0),
            "seconds": compiler.seconds(spec),
        }
    return results


def _out_of_memory_costs(error: Exception, spec: ProgramSpec) -> dict[str, float | int]:
    """The memory that a program needs according to XLA's out-of-memory error. Reraises other errors."""
    # libtpu 0.0.42 reports "temporaries (1.5G)" or "Used 20.1G of 15.75G hbm".
    match = re.search(r"(?:temporaries \(|Used )([\d.]+)([KMGT])", str(error))
    if "RESOURCE_EXHAUSTED" not in str(error) or not match:
        raise error
    used = float(match[1]) * 1024 ** (1 + "KMGT".index(match[2]))
    arguments = sum(bytes_per_device(tree) for tree in spec.persistent.values())
    return {"temporaries": used if "temporaries (" in str(error) else used - arguments, "code": 0.0, "flops": 0.0}
