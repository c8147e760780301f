"""How long the works of a chain take, by the slower of two limits: products at a share of the chips' peak, and bytes
at a share of their memory's bandwidth.

Bytes are: in an update the state read and written and what the backward pass keeps written and read, one and a half
times; in a program of a sampler its arguments read and twice its temporary arrays. Time between chips, of compilation,
reading data and saving is left out.
"""

import dataclasses
import math

from scotd_jax import config as c
from scotd_jax.distributed.topologies import Topology
from scotd_jax.jobs.planning.estimates import Program
from scotd_jax.jobs.planning.lowered_programs import rounded
from scotd_jax.jobs.planning.outcomes import Outcome, mesh_of
from scotd_jax.jobs.planning.workloads import Training
from scotd_jax.sampling.decode_pass import prefill_batch_size


@dataclasses.dataclass(frozen=True)
class Time:
    """Of one call, in seconds, and which limit it is: "FLOPs", "bytes", or "" of what is no call (loading)."""

    seconds: float
    bound: str


def of_call(program: Program, topology: Topology, plan: c.Plan) -> Time:
    held = program.bytes
    if program.name == "load":
        return Time(0.0, "")
    arguments = held["weights"] + held["optimizer"] + held["cache"]
    if program.name == "update":
        moved = 2 * arguments + 3 * held["temporaries"]
    else:
        moved = arguments + 2 * held["temporaries"]
    products = program.flops / (plan.efficiency * topology.chip.peak)
    memory = moved / (plan.bandwidth * topology.chip.bandwidth)
    return Time(max(products, memory), "FLOPs" if products >= memory else "bytes")


def of_work(outcome: Outcome, topology: Topology, plan: c.Plan) -> float:
    """Seconds of all updates, or of all samples (or prompts whose answers are compared) on all hosts. Every row is
    taken to be busy all the time."""
    work, times = outcome.work, {p.name: of_call(p, topology, plan).seconds for p in outcome.programs}
    if isinstance(work, Training):
        return work.updates * times["update"]
    mesh = mesh_of(work, outcome.mesh, topology)
    policy = rounded(work.policy, mesh)
    if work.answers:
        return math.ceil(work.questions / topology.hosts / policy.batch_size) * times["score"]
    reads = math.ceil(work.questions / topology.hosts / prefill_batch_size(policy.batch_size, mesh))
    each = min(plan.response_tokens or policy.max_new_tokens, policy.max_new_tokens)
    tokens = math.ceil(work.samples / topology.hosts / (policy.batch_size * policy.n)) * each
    return times.get("exemplars", 0.0) + reads * times["read"] + tokens * times["decode"]
