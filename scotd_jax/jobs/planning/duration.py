"""Duration of programs and workloads, from a roofline with shares of the peak FLOP/s and of the memory bandwidth.

An update reads and writes its state, and reads and writes its temporary arrays one and a half times each. A program of
the sampler reads its arguments once and its temporary arrays twice. Communication between chips, compilation, input and
checkpoints are not included.
"""

import dataclasses
import math

from scotd_jax import config as c
from scotd_jax.distributed.topologies import Topology
from scotd_jax.jobs.planning.analysis import WorkloadAnalysis, workload_mesh
from scotd_jax.jobs.planning.estimates import ProgramCost
from scotd_jax.jobs.planning.generation_programs import with_batch_size
from scotd_jax.jobs.planning.workloads import TrainingWorkload
from scotd_jax.sampling.batch_sizes import prefill_batch_size


@dataclasses.dataclass(frozen=True)
class CallTime:
    """Time of one call in seconds, and whether "compute" or "memory" bounds it; "" for loading, which is not timed."""

    seconds: float
    bound: str


def call_time(program: ProgramCost, topology: Topology, plan: c.Plan) -> CallTime:
    """Returns the time of one call of a program and its bound."""
    if program.name == "load":
        return CallTime(0.0, "")
    arguments = program.bytes["weights"] + program.bytes["optimizer"] + program.bytes["cache"]
    if program.name == "update":
        moved = 2 * arguments + 3 * program.bytes["temporaries"]
    else:
        moved = arguments + 2 * program.bytes["temporaries"]
    compute = program.flops / (plan.efficiency * topology.chip.peak)
    memory = moved / (plan.bandwidth * topology.chip.bandwidth)
    return CallTime(max(compute, memory), "compute" if compute >= memory else "memory")


def workload_seconds(analysis: WorkloadAnalysis, topology: Topology, plan: c.Plan) -> float:
    """Returns the seconds of a whole workload on all devices, assuming that all slots are busy all the time."""
    workload = analysis.workload
    seconds = {program.name: call_time(program, topology, plan).seconds for program in analysis.programs}
    if isinstance(workload, TrainingWorkload):
        return workload.updates * seconds["update"]
    mesh = workload_mesh(workload, analysis.mesh, topology)
    groups, policy = topology.chips // mesh.size, with_batch_size(workload, mesh).policy
    if workload.candidate_answers:
        return math.ceil(workload.questions / groups / policy.batch_size) * seconds["score"]
    prefills = math.ceil(workload.questions / groups / prefill_batch_size(policy.batch_size, mesh))
    tokens = min(plan.response_tokens or policy.max_new_tokens, policy.max_new_tokens)
    steps = math.ceil(workload.samples / groups / (policy.batch_size * policy.n)) * tokens
    return seconds.get("few_shot", 0.0) + prefills * seconds["prefill"] + steps * seconds["decode"]
