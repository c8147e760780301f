"""Memory and work of programs per chip by arithmetic on shapes: nothing is compiled and nothing deep is even traced.

Layers are alike, so two shallow models tell of any: what the second layer adds is added for the others. That is exact
for arguments and products. Of temporary memory it is an estimate, which knows what derivatives keep and what the
largest arrays are, but not what a compiler makes of that.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

from scotd_jax import config as c
from scotd_jax.distributed.mesh import AXES, batch_shards
from scotd_jax.distributed.sharding import AnyMesh
from scotd_jax.jobs.planning import jaxpr_costs
from scotd_jax.jobs.planning.assumptions import layers_of, shallow
from scotd_jax.jobs.planning.lowered_programs import (
    Call,
    batch_of,
    bytes_of,
    model_of,
    rounded,
    speaking_calls,
    training_call,
)
from scotd_jax.jobs.planning.workloads import Speaking, Training, Work, program_of
from scotd_jax.models.forward_options import ForwardOptions
from scotd_jax.sampling.decode_pass import contexts_per_group, prefill_batch_size
from scotd_jax.training.options import scans_layers
from scotd_jax.training.step import MAX_LOGITS_BYTES, logits_chunk_tokens

PARTS = ("weights", "optimizer", "cache", "beside", "other", "temporaries", "code")
Numbers = Mapping[str, float | int]


@dataclasses.dataclass(frozen=True)
class Program:
    """One program on one chip. `bytes` are by `PARTS`; `flops` of matrix products and `xla_flops` as XLA counts them
    (0: not compiled; of a loop over layers XLA for TPUs counts one) are of one call, for "decode" of one token of every
    row."""

    name: str
    bytes: Mapping[str, int]
    flops: float | int
    xla_flops: float | int = 0.0
    how: str = "by arithmetic on shapes"
    compile_seconds: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.bytes.values())


def line(deep: int, layers: tuple[int, ...], values: list[Numbers]) -> dict[str, float | int]:
    """What a model of `deep` layers has, by one or two of other depths: the line through them, never falling."""
    if len(layers) == 1:
        return dict(values[0])
    few, many = values
    steps = deep - layers[1], layers[1] - layers[0]
    return {key: many[key] + max(0, many[key] - few[key]) * steps[0] / steps[1] for key in many}


def depths(work: Work, most: int = 0) -> tuple[int, ...]:
    """Of the models that tell of the whole one (`shallow`). Where patterns say which parameters learn, they may name
    layers, and then only the whole one does."""
    if isinstance(work, Training) and (work.settings.freeze or work.settings.lora.rank):
        return (layers_of(work.architecture),)
    return shallow(work.architecture, most)


def by_layers(work: Work, counted: Callable[[int], Mapping[str, Numbers]]) -> dict[str, dict[str, float | int]]:
    """`counted(layers)` of the whole model, by one or two of these depths."""
    deep, layers = layers_of(work.architecture), depths(work)
    found = [counted(count) for count in layers]
    return {name: line(deep, layers, [each[name] for each in found]) for name in found[0]}


def calls_of(
    work: Work, mesh: AnyMesh, platform: str, layers: int, places: Callable[[Call], Any] | None = None
) -> dict[str, Call]:
    """The programs of a work by name, of a model with so many layers."""
    if isinstance(work, Training):
        return {"update": training_call(work, mesh, platform, layers)}
    return speaking_calls(work, mesh, platform, layers, places)


def estimated(work: Work, mesh: AnyMesh, platform: str) -> list[Program]:
    """Raises as `training_call` does."""

    def counted(layers: int) -> dict[str, Numbers]:
        return {name: _held(call) for name, call in calls_of(work, mesh, platform, layers).items()}

    held = by_layers(work, counted)
    if isinstance(work, Training):
        counts = {"update": _training(work, mesh, platform, held["update"])}
    else:
        counts = _speaking(work, mesh, platform)
    return [
        Program(
            name, {part: round(each[part]) for part in PARTS} | {"temporaries": round(counts[name][1])}, counts[name][0]
        )
        for name, each in held.items()
    ]


def _held(call: Call) -> Numbers:
    held, made = ({name: bytes_of(tree) for name, tree in trees.items()} for trees in (call.held, call.made))
    return dict.fromkeys(PARTS, 0) | held | made | {"other": max(0, bytes_of(call.arguments) - sum(held.values()))}


def _training(work: Training, mesh: AnyMesh, platform: str, held: Numbers) -> tuple[float | int, float | int]:
    """Operations of an update, and its temporary bytes: what the backward pass needs, copies of parameters and the
    kernels that LoRA makes, derivatives, sums of those that learn with micro-batches, and logits. Operations, and what
    is kept, are those of an update of all parameters: rather too many where some are frozen."""
    settings, tensor, fsdp = work.settings, mesh.shape["tensor"], mesh.shape["fsdp"]
    rows = settings.batch_size // batch_shards(mesh) // settings.microbatches
    plain = dataclasses.replace(settings, microbatches=1, freeze=(), lora=c.LoRA())
    each = _question(dataclasses.replace(program_of(work), settings=plain), platform)
    # Of what follows the batch, hidden units and heads are split over `tensor`: most, but not the residual stream.
    kept = each["batch"] * rows * (0.25 + 0.75 / tensor) + each["copied"] / (tensor * fsdp)
    gradients = held["derived"] + held["combined"] + (held["learns"] if settings.microbatches > 1 else 0)
    logits = 2 * min(MAX_LOGITS_BYTES, 4 * work.architecture.vocab_size * rows * work.group * work.response)
    return each["flops"] * settings.batch_size / mesh.size, kept + gradients + logits


@functools.lru_cache(maxsize=256)
def _question(work: Training, platform: str) -> Numbers:
    """Of an update: operations and bytes kept for the backward pass, both per question, and bytes of copies of
    parameters. Both are counted of layers written out; a loop keeps the same."""
    rows = 2

    def counted(layers: int) -> dict[str, Numbers]:
        model = model_of(work, platform, layers)
        chunk, batch = logits_chunk_tokens(model.config.vocab_size, 1), batch_of(work, rows, None)
        options = ForwardOptions(remat=work.settings.remat)
        kept = sum(jaxpr_costs.kept(model, part, chunk, options) for part in batch.values()) / rows
        flops = jaxpr_costs.flops(jaxpr_costs.gradient(model, chunk, work.parts, options), model.abstract(), batch)
        copied = jaxpr_costs.copied(model, scans_layers(work.settings, platform))
        return {"": {"flops": flops / rows, "batch": kept, "copied": copied}}

    return by_layers(work, counted)[""]


def _speaking(work: Speaking, mesh: AnyMesh, platform: str) -> dict[str, tuple[float | int, float | int]]:
    """Operations and temporary bytes of every program: twice the largest array, and the keys and values that it reads,
    of all layers. Those of exemplars are its result. Those of questions lie there twice before they lie where they
    belong, and on every shard of the batch, whose rows may take any: of OPT-13B on v5e XLA held 0.25, 0.49 and 0.91 GiB
    with 2, 4 and 8 layers, which are 55 MiB a layer twice. Small models take less.
    Where answers are compared they lie there once."""
    policy, shards = rounded(work.policy, mesh), batch_shards(mesh)
    asked = prefill_batch_size(policy.batch_size, mesh)
    read = asked / prefill_batch_size(policy.batch_size, None)
    copies = {"exemplars": 1, "read": 2 * asked / (contexts_per_group(policy) * policy.batch_size), "score": 1 / shards}
    found = {}
    for name, each in _alone(dataclasses.replace(program_of(work), policy=policy), platform).items():
        chips = mesh.size if name != "exemplars" else mesh.shape["tensor"]  # exemplars are read by every shard
        flops = each["flops"] * (read if name == "read" else 1) / chips
        largest = each["largest"] / (shards if name != "exemplars" else 1)
        found[name] = flops, 2 * largest + copies.get(name, 0) * each["made"] / mesh.shape["tensor"]
    return found


@functools.lru_cache(maxsize=256)
def _alone(work: Speaking, platform: str) -> dict[str, Numbers]:
    """Operations, and bytes of the largest array and of what is made (results, and a context that stays inside), of
    every program of a speaker on one device."""
    mesh = AbstractMesh((1, 1, 1), AXES, axis_types=(AxisType.Auto,) * len(AXES))

    def counted(layers: int) -> dict[str, Numbers]:
        calls = calls_of(work, mesh, platform, layers)
        return {
            name: {
                "flops": jaxpr_costs.flops(call.function, *call.arguments),
                "largest": jaxpr_costs.largest(call.function, *call.arguments),
                "made": bytes_of((jax.eval_shape(call.function, *call.arguments), call.made)),
            }
            for name, call in calls.items()
        }

    return by_layers(work, counted)
