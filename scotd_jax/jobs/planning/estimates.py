"""Memory and FLOPs of programs per chip, estimated from shapes without compiling.

Costs are counted on two shallow models and extrapolated (depth.py). That is exact for arguments and matmul FLOPs.
Temporary memory is estimated from the residuals of the backward pass and the largest arrays, and ignores compiler
optimizations.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh

from scotd_jax import config as c
from scotd_jax.distributed.mesh import batch_shards, make_abstract_mesh
from scotd_jax.distributed.sharding import AnyMesh
from scotd_jax.jobs.planning import jaxpr_costs
from scotd_jax.jobs.planning.depth import Costs, extrapolate_costs, extrapolate_programs
from scotd_jax.jobs.planning.generation_programs import generation_programs, with_batch_size
from scotd_jax.jobs.planning.program_specs import ProgramSpec, build_model, bytes_per_device
from scotd_jax.jobs.planning.training_program import abstract_batch, training_program
from scotd_jax.jobs.planning.workloads import GenerationWorkload, TrainingWorkload, Workload
from scotd_jax.models.forward_options import ForwardOptions
from scotd_jax.sampling.batch_sizes import contexts_per_group, prefill_batch_size
from scotd_jax.training.options import scans_layers
from scotd_jax.training.step import MAX_LOGITS_BYTES, logits_chunk_tokens

# "weights", "optimizer", "cache" and "inputs" (all others) are arguments of the program. "resident" arrays are other
# arrays that are in memory during the call.
MEMORY_PARTS = ("weights", "optimizer", "cache", "resident", "inputs", "temporaries", "code")
ESTIMATED = "estimated from shapes"


@dataclasses.dataclass(frozen=True)
class ProgramCost:
    """Costs of one program on one chip.

    Attributes:
      name: "update", "few_shot", "prefill", "decode", "score", or "load" for the loading of weights.
      bytes: memory by `MEMORY_PARTS`.
      flops: matmul FLOPs of one call; for "decode", of one token per sequence.
      xla_flops: FLOPs of one call as XLA counts them; 0 if not compiled. On TPUs, XLA counts one layer of
        a scan.
      method: how the costs were determined.
      compile_seconds: compile time.
    """

    name: str
    bytes: Mapping[str, int]
    flops: float | int
    xla_flops: float | int = 0.0
    method: str = ESTIMATED
    compile_seconds: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.bytes.values())


def estimate_programs(workload: Workload, mesh: AnyMesh, platform: str) -> list[ProgramCost]:
    """Returns estimated costs of the programs of a workload.

    Raises:
      InputError: as `training_program`.
    """

    def argument_bytes(layers: int) -> dict[str, Costs]:
        return {
            name: _argument_bytes(spec) for name, spec in workload_programs(workload, mesh, platform, layers).items()
        }

    arguments = extrapolate_programs(workload, argument_bytes)
    if isinstance(workload, TrainingWorkload):
        costs = {"update": _update_costs(workload, mesh, platform, arguments["update"])}
    else:
        costs = _generation_costs(workload, mesh, platform)
    programs = []
    for name, sizes in arguments.items():
        flops, temporaries = costs[name]
        memory = {part: round(sizes[part]) for part in MEMORY_PARTS} | {"temporaries": round(temporaries)}
        programs.append(ProgramCost(name, memory, flops))
    return programs


def workload_programs(
    workload: Workload,
    mesh: AnyMesh,
    platform: str,
    layers: int,
    output_shardings: Callable[[ProgramSpec], Any] | None = None,
) -> dict[str, ProgramSpec]:
    """Returns the programs of a workload by name, of a model with `layers` layers."""
    if isinstance(workload, TrainingWorkload):
        return {"update": training_program(workload, mesh, platform, layers)}
    return generation_programs(workload, mesh, platform, layers, output_shardings)


def _argument_bytes(spec: ProgramSpec) -> Costs:
    """Bytes per chip of the arguments by `MEMORY_PARTS`, and of the buffers by their own names."""
    persistent = {name: bytes_per_device(tree) for name, tree in spec.persistent.items()}
    buffers = {name: bytes_per_device(tree) for name, tree in spec.buffers.items()}
    inputs = max(0, bytes_per_device(spec.arguments) - sum(persistent.values()))
    return dict.fromkeys(MEMORY_PARTS, 0) | persistent | buffers | {"inputs": inputs}


def _update_costs(
    workload: TrainingWorkload, mesh: AnyMesh, platform: str, arguments: Costs
) -> tuple[float | int, float | int]:
    """FLOPs and temporary bytes of an update.

    Temporaries are residuals of the backward pass, copies of parameters, merged LoRA kernels, gradients, accumulated
    gradients of micro-batches, and logits. FLOPs and residuals are counted for an update of all parameters, so they are
    overestimated if some parameters are frozen.
    """
    settings, tensor, fsdp = workload.settings, mesh.shape["tensor"], mesh.shape["fsdp"]
    questions = settings.batch_size // batch_shards(mesh) // settings.microbatches
    all_trainable = dataclasses.replace(settings, microbatches=1, freeze=(), lora=c.LoRA())
    per_question = _costs_per_question(dataclasses.replace(workload.canonical(), settings=all_trainable), platform)
    # `tensor` shards hidden units and heads, but not the residual stream, assumed to be a quarter of the residuals.
    residuals = per_question["residuals"] * questions * (0.25 + 0.75 / tensor)
    copies = per_question["parameter_copies"] / (tensor * fsdp)
    accumulated = arguments["trainable"] if settings.microbatches > 1 else 0
    gradients = arguments["gradients"] + arguments["merged"] + accumulated
    tokens = questions * workload.group_size * workload.response_tokens
    logits = 2 * min(MAX_LOGITS_BYTES, 4 * workload.model_config.vocab_size * tokens)
    flops = per_question["flops"] * settings.batch_size / mesh.size
    return flops, residuals + copies + gradients + logits


@functools.lru_cache(maxsize=256)
def _costs_per_question(workload: TrainingWorkload, platform: str) -> Costs:
    """FLOPs and residual bytes of an update per question, without a scan over layers, and bytes of parameter copies."""
    questions = 2

    def measure(layers: int) -> Costs:
        model = build_model(workload, platform, layers)
        chunk, batch = logits_chunk_tokens(model.config.vocab_size, 1), abstract_batch(workload, questions, None)
        options = ForwardOptions(remat=workload.settings.remat)
        residuals = sum(jaxpr_costs.residual_bytes(model, part, chunk, options) for part in batch.values())
        gradient = jaxpr_costs.make_gradient(model, chunk, workload.parts, options)
        flops = jaxpr_costs.matmul_flops(gradient, model.abstract(), batch)
        copies = jaxpr_costs.parameter_copy_bytes(model, scans_layers(workload.settings, platform))
        return {"flops": flops / questions, "residuals": residuals / questions, "parameter_copies": copies}

    return extrapolate_costs(workload, measure)


def _generation_costs(
    workload: GenerationWorkload, mesh: AnyMesh, platform: str
) -> dict[str, tuple[float | int, float | int]]:
    """FLOPs and temporary bytes of every program.

    The temporaries of a program are twice its largest array, plus copies of the keys and values that it computes.
    "few_shot" and "score" have one copy. "prefill" has two copies of all keys and values on every shard of the batch,
    since any shard may store any of them: for OPT-13B on v5e, XLA allocated 0.25, 0.49 and 0.91 GiB with 2, 4 and 8
    layers, which is twice 55 MiB per layer. Small models need less.
    """
    workload, shards, tensor = with_batch_size(workload, mesh), batch_shards(mesh), mesh.shape["tensor"]
    policy = workload.policy
    prompts = prefill_batch_size(policy.batch_size, mesh)
    prompts_ratio = prompts / prefill_batch_size(policy.batch_size, None)
    slots = contexts_per_group(policy) * policy.batch_size
    copies = {"few_shot": 1, "prefill": 2 * prompts / slots, "score": 1 / shards}
    results = {}
    for name, costs in _one_device_costs(workload.canonical(), platform).items():
        chips = tensor if name == "few_shot" else mesh.size  # every batch shard encodes the few-shot examples
        flops = costs["flops"] * (prompts_ratio if name == "prefill" else 1) / chips
        largest = costs["largest"] / (1 if name == "few_shot" else shards)
        results[name] = flops, 2 * largest + copies.get(name, 0) * costs["outputs"] / tensor
    return results


@functools.lru_cache(maxsize=256)
def _one_device_costs(workload: GenerationWorkload, platform: str) -> Mapping[str, Costs]:
    """FLOPs, bytes of the largest array, and bytes of outputs and buffers of every program on one device."""
    mesh: AbstractMesh = make_abstract_mesh(c.Mesh(), 1)

    def measure(layers: int) -> Mapping[str, Costs]:
        return {
            name: {
                "flops": jaxpr_costs.matmul_flops(spec.function, *spec.arguments),
                "largest": jaxpr_costs.largest_array_bytes(spec.function, *spec.arguments),
                "outputs": bytes_per_device((jax.eval_shape(spec.function, *spec.arguments), spec.buffers)),
            }
            for name, spec in workload_programs(workload, mesh, platform, layers).items()
        }

    return extrapolate_programs(workload, measure)
