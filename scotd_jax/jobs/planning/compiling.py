"""Memory and work of programs per chip as XLA tells them when it compiles.

An update whose layers are rolled into a loop (models/layer_scan.py) is compiled as it is, however deep the model. Other
programs of deep models take XLA many minutes, so more than `plan.compile_layers` layers of them are not compiled: two
shallow models are, and what the layers between them add is added for the rest. XLA that is short of memory computes
things twice to save some; a shallow model is not short, so this rather tells too much. An update whose parameters
learn by their names (`training.freeze`, `training.lora`) is compiled whole, because the names may be those of layers.
"""

import dataclasses
import re
import time
from typing import Any

import jax
from jax.sharding import Mesh

from scotd_jax.jobs.planning.assumptions import layers_of
from scotd_jax.jobs.planning.estimates import Numbers, Program, calls_of, depths, estimated, line
from scotd_jax.jobs.planning.lowered_programs import Call, bytes_of
from scotd_jax.jobs.planning.workloads import Training, Work
from scotd_jax.training.options import scans_layers


def compiled(work: Work, mesh: Mesh, platform: str, layers: int) -> list[Program]:
    """Whole or (of more than `layers`, which are not rolled; 0: never) by two shallow models. Raises as
    `training_call` does."""
    deep, rolled = layers_of(work.architecture), isinstance(work, Training) and scans_layers(work.settings, platform)
    several = depths(work, layers) if layers and not rolled else (deep,)
    known = estimated(work, mesh, platform)
    runs = [_compile(work, mesh, platform, count) for count in several]
    how = "compiled" if len(several) == 1 else f"compiled with {several[0]} and {several[1]} of {deep} layers"
    how += ", its layers in a loop" if rolled and deep > 1 else ""
    programs = []
    for program in known:
        values = line(deep, several, [run[program.name] for run in runs])
        took = {name: max(0, round(values[name])) for name in ("temporaries", "code")}
        seconds = float(sum(run[program.name]["seconds"] for run in runs))
        programs.append(
            dataclasses.replace(
                program, bytes={**program.bytes, **took}, xla_flops=values["flops"], how=how, compile_seconds=seconds
            )
        )
    return programs


def _compile(work: Work, mesh: Mesh, platform: str, layers: int) -> dict[str, Numbers]:
    done: dict[int, tuple[Call, Any, float]] = {}

    def once(call: Call) -> Any:
        if id(call) not in done:
            begun = time.monotonic()
            made = call.function.lower(*call.arguments).compile()
            done[id(call)] = call, made, time.monotonic() - begun
        return done[id(call)][1]

    found = {}
    for name, call in calls_of(work, mesh, platform, layers, lambda call: once(call).output_shardings).items():
        begun = time.monotonic()
        try:
            made = once(call)
        except jax.errors.JaxRuntimeError as error:
            found[name] = _too_large(error, call) | {"seconds": time.monotonic() - begun}
            continue
        memory, cost = made.memory_analysis(), made.cost_analysis() or {}
        fresh = max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes)
        found[name] = {
            "temporaries": memory.temp_size_in_bytes + fresh,
            "code": memory.generated_code_size_in_bytes,
            "flops": cost.get("flops", 0.0),
            "seconds": done[id(call)][2],
        }
    return found


def _too_large(error: Exception, call: Call) -> dict[str, float | int]:
    """What XLA says that a program needs for which there is no memory. Other errors are passed on."""
    said = re.search(r"(?:temporaries \(|Used )([\d.]+)([KMGT])", str(error))
    if "RESOURCE_EXHAUSTED" not in str(error) or not said:
        raise error
    used = float(said[1]) * 1024 ** (1 + "KMGT".index(said[2]))
    arguments = sum(bytes_of(tree) for tree in call.held.values())
    return {"temporaries": used if "temporaries (" in str(error) else used - arguments, "code": 0.0, "flops": 0.0}
