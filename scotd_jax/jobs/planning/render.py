"""The plan as people read it and as plan.json keeps it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from scotd_jax import config as c
from scotd_jax.distributed.chips import GIB, GIGA, GPU_MEMORY_VARIABLE, TERA, gpu_memory_fraction
from scotd_jax.distributed.topologies import Topology
from scotd_jax.jobs.planning import duration
from scotd_jax.jobs.planning.estimates import PARTS
from scotd_jax.jobs.planning.outcomes import Outcome, mesh_of
from scotd_jax.jobs.planning.suggestions import ROOM, Remedy
from scotd_jax.jobs.planning.workloads import Training
from scotd_jax.progress import format_seconds

_COLUMNS = ("program", *PARTS, "GiB", "fits", "TFLOP", "time", "bound", "compiled in")


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that was found out. `reason` says why nothing was compiled; "" if it was."""

    name: str
    settings: c.Plan
    topology: Topology
    reason: str
    outcomes: Sequence[Outcome]
    remedies: Sequence[tuple[str, Remedy | None]]
    notes: Sequence[str]


def as_text(plan: Plan) -> str:
    topology, settings = plan.topology, plan.settings
    lines = [f"{plan.name or 'plan'} on {topology.describe()}"]
    usable = f"{topology.chip.usable / GIB:.2f} GiB usable of each chip"
    if topology.chip.platform == "cuda":
        usable += f", {gpu_memory_fraction():.0%} of it ({GPU_MEMORY_VARIABLE})"
    lines += [f"{usable}; GiB per chip and program, cost of one call:"]
    rows = [list(_COLUMNS)]
    for outcome in plan.outcomes:
        rows.append([f"{outcome.work.title}: {_what(outcome, topology)}"])
        for program in outcome.programs:
            time = duration.of_call(program, topology, settings)
            rows.append(
                [
                    f"  {program.name}",
                    *(f"{program.bytes[part] / GIB:.2f}" for part in PARTS),
                    f"{program.total / GIB:.2f}",
                    _fits(program.total / outcome.usable),
                    f"{program.flops / TERA:.3g}" if time.bound else "-",
                    f"{1000 * time.seconds:.3g} ms" if time.bound else "-",
                    time.bound or "-",
                    format_seconds(program.compile_seconds) if program.compile_seconds else "-",
                ]
            )
        if outcome.problem:
            rows.append([f"  cannot be: {outcome.problem}"])
    lines += _table(rows)
    lines += ["", "hours of the chain (an upper bound where responses end early):"]
    total = 0.0
    for outcome in plan.outcomes:
        if not outcome.problem:
            seconds = duration.of_work(outcome, topology, settings)
            total += seconds
            lines.append(f"  {seconds / 3600:8.2f} h  {outcome.work.title} ({_amount(outcome)})")
    without = ", without what cannot be" if any(outcome.problem for outcome in plan.outcomes) else ""
    lines.append(f"  {total / 3600:8.2f} h  in all{without}, {total / 3600 * topology.chips:,.0f} chip-hours")
    lines += ["", *_assumptions(plan), ""]
    for job, remedy in plan.remedies:
        lines += _advice(job, remedy)
    if not plan.remedies:
        lines.append("everything fits")
    return "\n".join(lines)


def _fits(share: float) -> str:
    if share > 1:
        return "NO"
    return "yes" if share <= ROOM else "tight"


def _what(outcome: Outcome, topology: Topology) -> str:
    work = outcome.work
    on = ", ".join(f"{axis}={size}" for axis, size in mesh_of(work, outcome.mesh, topology).shape.items())
    if isinstance(work, Training):
        cut = f" in {work.settings.microbatches} parts" if work.settings.microbatches > 1 else ""
        said = f"{work.group} x {work.response} tokens after {work.prompt}"
        return f"{work.settings.batch_size} questions{cut}, {said}; {on}"
    where = f"on each host {on}" if topology.hosts > 1 else on
    if work.answers:
        return f"{work.policy.batch_size} prompts of up to {work.prompt} tokens x {work.answers} answers; {where}"
    return (
        f"{work.policy.batch_size} questions x {work.policy.n} rows, up to {work.policy.max_new_tokens} tokens after "
        f"{work.prompt}{f' after {work.exemplars}' if work.exemplars else ''}; {where}"
    )


def _amount(outcome: Outcome) -> str:
    work = outcome.work
    if isinstance(work, Training):
        return f"{work.updates:,} updates"
    if work.answers:
        return f"answers compared after {work.questions:,} prompts"
    return f"{work.samples:,} samples of {work.questions:,} questions"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they need; a row of one cell is a line of its own."""
    full = [row for row in rows if len(row) > 1]
    widths = [max(len(row[i]) for row in full) for i in range(len(full[0]))]
    return [
        row[0] if len(row) == 1 else "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in rows
    ]


def _assumptions(plan: Plan) -> list[str]:
    settings = plan.settings
    lines = ["assumed:"]
    if plan.reason:
        lines.append(f"  nothing was compiled: {plan.reason}")
        lines.append(
            "  memory is by arithmetic on shapes: weights, optimizer and cache are exact; temporaries (gradients,"
        )
        lines.append(
            "  activations, logits, layers copied into a loop) are an estimate, and the code of programs is left out"
        )
    else:
        programs = [program for outcome in plan.outcomes for program in outcome.programs]
        hows = dict.fromkeys(program.how for program in programs if program.name != "load")
        lines += [f"  {how}{', the rest in proportion' if ' of ' in how else ''}" for how in hows]
    lines.append(
        f"  time of a call: the slower of products at {settings.efficiency:.0%} of "
        f"{plan.topology.chip.peak / TERA:.3g} TFLOP/s and bytes at {settings.bandwidth:.0%} of "
        f"{plan.topology.chip.bandwidth / GIGA:.4g} GB/s; none between chips, for compiling, reading or saving"
    )
    return [*lines, *(f"  {note}" for note in plan.notes)]


def _advice(job: str, remedy: Remedy | None) -> list[str]:
    if remedy is None:
        return [f"{job} does not fit, and would not on any topology that is known: take a smaller model"]
    where = f"on {remedy.topology} " if remedy.topology else ""
    sure = "compiled" if remedy.checked else "by arithmetic"
    lines = [f"{job} does not fit. It does {where}({sure}: {remedy.total / GIB:.2f} GiB) with --jobs={job}"]
    return [*lines, *(f"    {flag}" for flag in remedy.flags)]


def as_json(plan: Plan) -> dict[str, Any]:
    """Bytes, seconds and operations, per chip."""
    topology = plan.topology
    return {
        "name": plan.name,
        "topology": {
            "name": topology.name,
            "chip": topology.chip.name,
            "chips": topology.chips,
            "hosts": topology.hosts,
            "usable_bytes": topology.chip.usable,
            "peak_flops": topology.chip.peak,
            "bandwidth_bytes": topology.chip.bandwidth,
        },
        "compiled": not plan.reason,
        "fits": all(outcome.fits for outcome in plan.outcomes),
        "works": [_work(outcome, plan) for outcome in plan.outcomes],
        "remedies": [{"job": job, **(dataclasses.asdict(remedy) if remedy else {})} for job, remedy in plan.remedies],
        "assumed": c.plain(plan.settings) | {"notes": list(plan.notes), "not_compiled_because": plan.reason},
    }


def _work(outcome: Outcome, plan: Plan) -> dict[str, Any]:
    work, settings = outcome.work, plan.settings
    return {
        "title": work.title,
        "job": work.job,
        "names": list(work.names),
        "mesh": c.plain(outcome.mesh),
        "fits": outcome.fits,
        "problem": outcome.problem,
        "amount": _amount(outcome),
        "hours": None if outcome.problem else duration.of_work(outcome, plan.topology, settings) / 3600,
        "programs": [
            {
                "name": program.name,
                "bytes": dict(program.bytes),
                "total_bytes": program.total,
                "flops": program.flops,
                "xla_flops": program.xla_flops,
                "seconds": (time := duration.of_call(program, plan.topology, settings)).seconds,
                "bound": time.bound,
                "how": program.how,
                "compile_seconds": program.compile_seconds,
            }
            for program in outcome.programs
        ],
    }
