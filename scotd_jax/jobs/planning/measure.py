"""Memory and work of a program per chip: from XLA's own analysis where it can compile, else by arithmetic on shapes.

Deep models take XLA many minutes (layers are not rolled into a loop), so more than `plan.layers` of them are not
compiled: two shallow ones are, and what they add per layer is added for the rest. Arguments are exact in any case.
XLA that is short of memory rematerialises; a shallow model is not short, so the extrapolation rather tells too much.
"""

import dataclasses
import functools
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh

from scotd_jax.distributed.mesh import AXES, batch_shards
from scotd_jax.distributed.sharding import AnyMesh
from scotd_jax.jobs.planning import counting
from scotd_jax.jobs.planning.calls import Call, batch_of, bytes_of, model_of, rounded, speaking_calls, training_call
from scotd_jax.jobs.planning.shapes import layers_of
from scotd_jax.jobs.planning.works import Speaking, Training, Work, program_of
from scotd_jax.sampling.sampler import at_once
from scotd_jax.training.step import LOGITS_BYTES, chunk_tokens

Numbers = dict[str, float | int]
PARTS = ("weights", "optimizer", "cache", "beside", "other", "temporaries", "code")


@dataclasses.dataclass(frozen=True)
class Program:
    """One program on one chip. `bytes` are by `PARTS`; `flops` of matrix products and `xla_flops` as XLA counts them
    (0: not compiled) are of one call, for "decode" of one token of every row."""

    name: str
    bytes: Mapping[str, int]
    flops: float | int
    xla_flops: float | int = 0.0
    how: str = "by arithmetic on shapes"
    compile_seconds: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.bytes.values())


def estimated(work: Work, mesh: AnyMesh, platform: str) -> list[Program]:
    """By arithmetic. Raises InputError if the sizes of batch and mesh do not fit."""
    counts = _counts(work, mesh, platform)
    return [
        Program(name, _held(call) | {"temporaries": round(counts[name][1])}, counts[name][0])
        for name, call in _calls(work, mesh, platform).items()
    ]


def compiled(work: Work, mesh: Mesh, platform: str, layers: int) -> list[Program]:
    """By XLA, in whole or (of more than `layers`; 0: never) from two shallow models. Raises as `estimated`."""
    deep = layers_of(work.architecture)
    several = (max(1, layers // 2), layers) if 1 < layers < deep else (deep,)
    exact = _calls(work, mesh, platform)
    runs = [_compile(work, mesh, platform, count) for count in several]
    counts = _counts(work, mesh, platform)
    programs = []
    for name in exact:
        values = _at(deep, several, [run[name] for run in runs])
        held = _held(exact[name])
        held |= {"temporaries": max(0, round(values["temporaries"])), "code": round(values["code"])}
        how = "compiled" if len(several) == 1 else f"compiled with {several[0]} and {several[1]} of {deep} layers"
        seconds = sum(run[name]["seconds"] for run in runs)
        programs.append(Program(name, held, counts[name][0], values["flops"], how, seconds))
    return programs


def _counts(work: Work, mesh: Any, platform: str) -> dict[str, tuple[float | int, float | int]]:
    """Operations and temporary bytes of every program, per chip, by arithmetic."""
    if isinstance(work, Speaking):
        return _speaking_counts(work, mesh, platform)
    held = training_call(work, mesh, platform).held["weights"]
    return {"update": (_training_flops(work, platform, mesh), _training_temporaries(work, mesh, platform, held))}


def _calls(work: Work, mesh: Any, platform: str, layers: int = 0, places: Callable[[Call], Any] | None = None) -> dict:
    if isinstance(work, Training):
        return {"update": training_call(work, mesh, platform, layers)}
    return speaking_calls(work, mesh, platform, layers, places)


def _compile(work: Work, mesh: Mesh, platform: str, layers: int) -> dict[str, Numbers]:
    done: dict[int, Any] = {}

    def compile_(call: Call) -> Any:
        if id(call) not in done:
            begun = time.monotonic()
            made = call.function.lower(*call.arguments).compile()
            done[id(call)] = call, made, time.monotonic() - begun
        return done[id(call)]

    calls = _calls(work, mesh, platform, layers, lambda call: compile_(call)[1].output_shardings)
    found = {}
    for name, call in calls.items():
        begun = time.monotonic()
        try:
            _, made, seconds = compile_(call)
        except jax.errors.JaxRuntimeError as error:
            found[name] = _too_large(error, call) | {"seconds": time.monotonic() - begun}
            continue
        memory, cost = made.memory_analysis(), made.cost_analysis() or {}
        fresh = max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes)
        found[name] = {
            "temporaries": memory.temp_size_in_bytes + fresh,
            "code": memory.generated_code_size_in_bytes,
            "flops": cost.get("flops", 0.0),
            "seconds": seconds,
        }
    return found


def _too_large(error: Exception, call: Call) -> Numbers:
    """What XLA says that a program needs for which there is no memory. Other errors are passed on."""
    said = re.search(r"(?:temporaries \(|Used )([\d.]+)([KMGT])", str(error))
    if "RESOURCE_EXHAUSTED" not in str(error) or not said:
        raise error
    used = float(said[1]) * 1024 ** (1 + "KMGT".index(said[2]))
    arguments = sum(bytes_of(tree) for tree in call.held.values())
    return {"temporaries": used if "temporaries (" in str(error) else used - arguments, "code": 0.0, "flops": 0.0}


def _at(deep: int, layers: tuple[int, ...], values: list[Numbers]) -> Numbers:
    """The line through what two models have, at a third."""
    if len(layers) == 1:
        return values[0]
    share = (deep - layers[1]) / (layers[1] - layers[0])
    few, many = values
    return {key: many[key] + max(0.0, many[key] - few[key]) * share for key in many}


def _held(call: Call) -> dict[str, int]:
    held = {name: bytes_of(tree) for name, tree in call.held.items()}
    every = dict.fromkeys(PARTS, 0) | held
    return every | {"other": max(0, bytes_of(call.arguments) - sum(held.values()))}


@functools.lru_cache(maxsize=256)
def _update(work: Training, platform: str) -> tuple[float | int, float | int, float | int]:
    """Of an update, per question: floating point operations, and bytes kept for the backward pass that follow the
    batch; and bytes kept of parameters in the form in which they are multiplied. Layers are alike, so two shallow
    models tell of any."""
    rows, layers = 2, _shallow(work)
    found = []
    for count in layers:
        model = model_of(work, platform, count)
        chunk, batch = chunk_tokens(model.config.vocab_size, 1), batch_of(work, rows, None)
        pairs = [counting.kept(model, part, chunk) for part in batch.values()]
        flops = counting.flops(counting.gradient(model, chunk, work.parts), model.abstract(), batch)
        found.append(
            {"flops": flops, "batch": sum(one for one, _ in pairs), "weights": max(other for _, other in pairs)}
        )
    whole = _at(layers_of(work.architecture), layers, found)
    return whole["flops"] / rows, whole["batch"] / rows, whole["weights"]


def _training_flops(work: Training, platform: str, mesh: Any) -> float | int:
    alike = dataclasses.replace(work.settings, microbatches=1)
    each = _update(dataclasses.replace(program_of(work), settings=alike), platform)[0]
    return each * work.settings.batch_size / mesh.size


def _training_temporaries(work: Training, mesh: Any, platform: str, held: Any) -> int:
    """What the backward pass needs, one gradient (two with micro-batches, which add up) and logits."""
    rows = work.settings.batch_size // batch_shards(mesh) // work.settings.microbatches
    tensor, fsdp = mesh.shape["tensor"], mesh.shape["fsdp"]
    alike = dataclasses.replace(work.settings, microbatches=1)
    _, batch, weights = _update(dataclasses.replace(program_of(work), settings=alike), platform)
    gradients = bytes_of(held) * (1 if work.settings.microbatches == 1 else 2)
    logits = 2 * min(LOGITS_BYTES, 4 * work.architecture.vocab_size * rows * work.group * work.response)
    # Of what follows the batch, hidden units and heads are split over `tensor`: most, but not the residual stream.
    batch *= rows * (0.25 + 0.75 / tensor)
    return round(batch + weights / (tensor * fsdp) + gradients + logits)


@functools.lru_cache(maxsize=256)
def _speech(work: Speaking, platform: str) -> dict[str, tuple[float | int, float | int]]:
    """Operations, and bytes of the largest array, of every program of a speaker on one device."""
    alone = AbstractMesh((1, 1, 1), AXES, axis_types=(AxisType.Auto,) * len(AXES))
    found = []
    for count in _shallow(work):
        calls = speaking_calls(work, alone, platform, count)
        found.append({name: counting.flops(call.function, *call.arguments) for name, call in calls.items()})
    sizes = {name: counting.largest(call.function, *call.arguments) for name, call in calls.items()}
    whole = _at(layers_of(work.architecture), _shallow(work), found)
    return {name: (whole[name], sizes[name]) for name in whole}


def _speaking_counts(work: Speaking, mesh: Any, platform: str) -> dict[str, tuple[float | int, float | int]]:
    """The same per chip of a mesh; of temporary memory some arrays of the size of the largest are assumed."""
    policy, shards = rounded(work.policy, mesh), batch_shards(mesh)
    counts = _speech(dataclasses.replace(program_of(work), policy=policy), platform)
    read = at_once(policy.batch_size, mesh) / at_once(policy.batch_size, None)
    return {
        name: (
            flops * (read if name == "read" else 1) / (mesh.size if name != "exemplars" else mesh.shape["tensor"]),
            2 * size / (1 if name == "exemplars" else shards),
        )
        for name, (flops, size) in counts.items()
    }


def _shallow(work: Work) -> tuple[int, ...]:
    deep = layers_of(work.architecture)
    return (1, 2) if deep > 2 else (deep,)
