"""The plan as text for the terminal and as JSON for plan.json."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from scotd_jax import config as c
from scotd_jax.distributed.chips import GIB, GIGA, TERA
from scotd_jax.distributed.gpu_settings import GPU_MEMORY_VARIABLES, gpu_memory_fraction
from scotd_jax.distributed.topologies import Topology
from scotd_jax.jobs.planning.analysis import WorkloadAnalysis, workload_mesh
from scotd_jax.jobs.planning.duration import call_time, workload_seconds
from scotd_jax.jobs.planning.estimates import MEMORY_PARTS, ProgramCost
from scotd_jax.jobs.planning.generation_programs import with_batch_size
from scotd_jax.jobs.planning.suggestions import MEMORY_SHARE, Suggestion
from scotd_jax.jobs.planning.workloads import TrainingWorkload
from scotd_jax.progress import format_seconds

_COLUMNS = ("program", *MEMORY_PARTS, "GiB", "fits", "TFLOP", "time", "bound", "compiled in")


@dataclasses.dataclass(frozen=True)
class PlanResult:
    """The results of the plan job.

    Attributes:
      name: name of the config.
      settings: settings of the plan.
      topology: the topology.
      compile_obstacle: why nothing was compiled; "" if programs were compiled.
      analyses: analyses of the workloads.
      suggestions: (job, suggestion) for every job that does not fit; None if no suggestion was found.
      notes: assumptions about missing files.
    """

    name: str
    settings: c.Plan
    topology: Topology
    compile_obstacle: str
    analyses: Sequence[WorkloadAnalysis]
    suggestions: Sequence[tuple[str, Suggestion | None]]
    notes: Sequence[str]


def render_text(plan: PlanResult) -> str:
    """Returns the plan for the terminal."""
    topology = plan.topology
    usable = f"{topology.chip.usable / GIB:.2f} GiB usable of each chip"
    if topology.chip.platform == "cuda":
        usable += f", {gpu_memory_fraction():.0%} of it ({GPU_MEMORY_VARIABLES[0]})"
    lines = [
        f"{plan.name or 'plan'} on {topology.describe()}",
        f"{usable}; GiB per chip and program, cost of one call:",
        *_program_table(plan),
        "",
        *_durations(plan),
        "",
        *_assumptions(plan),
        "",
    ]
    for job, suggestion in plan.suggestions:
        lines += _suggestion_lines(job, suggestion)
    if not plan.suggestions:
        lines.append("everything fits")
    return "\n".join(lines)


def render_json(plan: PlanResult) -> dict[str, Any]:
    """Returns the content of plan.json: bytes, seconds and FLOPs per chip."""
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
        "compiled": not plan.compile_obstacle,
        "fits": all(analysis.fits for analysis in plan.analyses),
        "workloads": [_workload_json(analysis, plan) for analysis in plan.analyses],
        "suggestions": [
            {"job": job, **(dataclasses.asdict(suggestion) if suggestion else {})}
            for job, suggestion in plan.suggestions
        ],
        "assumptions": c.plain(plan.settings)
        | {"notes": list(plan.notes), "not_compiled_because": plan.compile_obstacle},
    }


def _program_table(plan: PlanResult) -> list[str]:
    rows = [list(_COLUMNS)]
    for analysis in plan.analyses:
        rows.append([f"{analysis.workload.title}: {_describe_shapes(analysis, plan.topology)}"])
        rows += [_program_row(program, analysis, plan) for program in analysis.programs]
        if analysis.problem:
            rows.append([f"  impossible: {analysis.problem}"])
    return _aligned(rows)


def _program_row(program: ProgramCost, analysis: WorkloadAnalysis, plan: PlanResult) -> list[str]:
    time = call_time(program, plan.topology, plan.settings)
    return [
        f"  {program.name}",
        *(f"{program.bytes[part] / GIB:.2f}" for part in MEMORY_PARTS),
        f"{program.total / GIB:.2f}",
        _describe_fit(program.total / analysis.usable),
        f"{program.flops / TERA:.3g}" if time.bound else "-",
        f"{1000 * time.seconds:.3g} ms" if time.bound else "-",
        time.bound or "-",
        format_seconds(program.compile_seconds) if program.compile_seconds else "-",
    ]


def _describe_fit(share: float) -> str:
    if share > 1:
        return "NO"
    return "yes" if share <= MEMORY_SHARE else "tight"


def _describe_shapes(analysis: WorkloadAnalysis, topology: Topology) -> str:
    workload = analysis.workload
    own_mesh = workload_mesh(workload, analysis.mesh, topology)
    mesh = ", ".join(f"{axis}={size}" for axis, size in own_mesh.shape.items())
    if isinstance(workload, TrainingWorkload):
        settings = workload.settings
        split = f" in {settings.microbatches} micro-batches" if settings.microbatches > 1 else ""
        tokens = f"{workload.group_size} x {workload.response_tokens} tokens after {workload.prompt_tokens}"
        return f"{settings.batch_size} questions{split}, {tokens}; {mesh}"
    policy, prompt_tokens = with_batch_size(workload, own_mesh).policy, workload.prompt_tokens
    if topology.hosts > 1:
        hosts = own_mesh.size // topology.per_host
        mesh = f"on {f'every {hosts} hosts' if hosts > 1 else 'each host'} {mesh}"
    if workload.candidate_answers:
        answers = workload.candidate_answers
        rationale = f", each after a rationale of {workload.rationale_tokens}" if workload.rationale_tokens else ""
        return f"{policy.batch_size} prompts of up to {prompt_tokens} tokens x {answers} answers{rationale}; {mesh}"
    few_shot = f" after {workload.exemplar_tokens}" if workload.exemplar_tokens else ""
    return (
        f"{policy.batch_size} questions x {policy.n} responses, up to {policy.max_new_tokens} tokens after "
        f"{prompt_tokens}{few_shot}; {mesh}"
    )


def _durations(plan: PlanResult) -> list[str]:
    lines, total = ["duration of the chain (an upper bound where responses end early):"], 0.0
    for analysis in plan.analyses:
        if not analysis.problem:
            hours = workload_seconds(analysis, plan.topology, plan.settings) / 3600
            total += hours
            lines.append(f"  {hours:8.2f} h  {analysis.workload.title} ({_amount(analysis)})")
    without = ", without impossible workloads" if any(analysis.problem for analysis in plan.analyses) else ""
    lines.append(f"  {total:8.2f} h  in total{without}, {total * plan.topology.chips:,.0f} chip-hours")
    return lines


def _amount(analysis: WorkloadAnalysis) -> str:
    workload = analysis.workload
    if isinstance(workload, TrainingWorkload):
        return f"{workload.updates:,} updates"
    if workload.candidate_answers:
        return f"answers scored after {workload.questions:,} prompts"
    return f"{workload.samples:,} responses to {workload.questions:,} questions"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table with aligned columns. A row of one cell spans all columns."""
    full = [row for row in rows if len(row) > 1]
    widths = [max(len(row[i]) for row in full) for i in range(len(full[0]))]
    return [
        row[0] if len(row) == 1 else "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in rows
    ]


def _assumptions(plan: PlanResult) -> list[str]:
    settings, chip = plan.settings, plan.topology.chip
    lines = ["assumptions:"]
    if plan.compile_obstacle:
        lines += [
            f"  nothing was compiled: {plan.compile_obstacle}",
            "  memory is estimated from shapes: weights, optimizer state and cache are exact; temporaries (gradients,",
            "  activations, logits, stacked layers) are an estimate, and the code of programs is not included",
        ]
    else:
        programs = [program for analysis in plan.analyses for program in analysis.programs]
        methods = dict.fromkeys(program.method for program in programs if program.name != "load")
        lines += [f"  {method}{', extrapolated' if ' of ' in method else ''}" for method in methods]
    lines.append(
        f"  time of a call: the larger of FLOPs at {settings.efficiency:.0%} of {chip.peak / TERA:.3g} TFLOP/s and "
        f"bytes at {settings.bandwidth:.0%} of {chip.bandwidth / GIGA:.4g} GB/s; without communication, compilation, "
        "input and checkpoints"
    )
    return [*lines, *(f"  {note}" for note in plan.notes)]


def _suggestion_lines(job: str, suggestion: Suggestion | None) -> list[str]:
    if suggestion is None:
        return [f"{job} does not fit on any known topology: use a smaller model"]
    where = f"on {suggestion.topology} " if suggestion.topology else ""
    method = "compiled" if suggestion.compiled else "estimated"
    head = f"{job} does not fit. It does {where}({method}: {suggestion.total / GIB:.2f} GiB) with --jobs={job}"
    return [head, *(f"    {flag}" for flag in suggestion.flags)]


def _workload_json(analysis: WorkloadAnalysis, plan: PlanResult) -> dict[str, Any]:
    workload, topology, settings = analysis.workload, plan.topology, plan.settings
    hours = None if analysis.problem else workload_seconds(analysis, topology, settings) / 3600
    return {
        "title": workload.title,
        "job": workload.job,
        "names": list(workload.names),
        "mesh": c.plain(analysis.mesh),
        "fits": analysis.fits,
        "problem": analysis.problem,
        "amount": _amount(analysis),
        "duration_hours": hours,
        "programs": [_program_json(program, topology, settings) for program in analysis.programs],
    }


def _program_json(program: ProgramCost, topology: Topology, settings: c.Plan) -> dict[str, Any]:
    time = call_time(program, topology, settings)
    return {
        "name": program.name,
        "bytes": dict(program.bytes),
        "total_bytes": program.total,
        "flops": program.flops,
        "xla_flops": program.xla_flops,
        "seconds": time.seconds,
        "bound": time.bound,
        "method": program.method,
        "compile_seconds": program.compile_seconds,
    }
