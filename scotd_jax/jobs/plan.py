"""The plan job: memory and time of a run before its hardware is rented.

Compiles every program of the chain for a named topology, which need not be attached. Estimates the costs of programs
that cannot be compiled. Reads only the config and local task files, and writes only WORKDIR/plan.json.
"""

import itertools
import json
import time

import jax

from scotd_jax import config as c
from scotd_jax.atomic import write_text
from scotd_jax.distributed import topologies
from scotd_jax.distributed.mesh import group_mesh_sizes
from scotd_jax.errors import InputError
from scotd_jax.jobs import graph
from scotd_jax.jobs.planning import render
from scotd_jax.jobs.planning.analysis import Analyzer, WorkloadAnalysis
from scotd_jax.jobs.planning.assumptions import Assumptions
from scotd_jax.jobs.planning.chain_workloads import chain_workloads
from scotd_jax.jobs.planning.suggestions import Suggestion, find_suggestion, raise_if_too_large
from scotd_jax.jobs.planning.training_program import check_workload
from scotd_jax.progress import log
from scotd_jax.workdir import Workdir


def plan(config: c.Config, workdir: str) -> None:
    """Prints the plan and writes it to WORKDIR/plan.json.

    Raises:
      InputError: on an invalid topology, mesh or training; and, after writing the plan, if memory does not suffice.
    """
    graph.chain(config)
    if not config.plan.topology:
        raise InputError("config.plan.topology: missing; set one, for example --config.plan.topology=v5e-16")
    topology = topologies.parse_topology(config.plan.topology, "config.plan.topology")
    topologies.use_cpu_only(topology.chips if topology.chip.platform == "cpu" else 1)
    group_mesh_sizes(config.sampling_mesh, config.mesh, topology.chips, topology.per_host)
    start = time.monotonic()
    assumptions = Assumptions(config)
    analyzer = Analyzer(topology, config.plan.compile_layers, log)
    with jax.debug_key_reuse(False):  # traces shapes only, so no key is ever used
        workloads = chain_workloads(config, assumptions)
        for workload in workloads:  # raises before minutes of compiling
            check_workload(workload, topology.chip.platform)
        analyses = [analyzer.analyze(workload, config.mesh, compile=True) for workload in workloads]
        suggestions = _suggestions(analyzer, analyses, config.mesh)
    obstacle = analyzer.compile_obstacle
    result = render.PlanResult(config.name, config.plan, topology, obstacle, analyses, suggestions, assumptions.notes)
    print(render.render_text(result))
    path = Workdir(workdir).root / "plan.json"
    write_text(path, json.dumps(render.render_json(result), indent=2) + "\n")
    log(f"planned in {time.monotonic() - start:.0f} s: {path}")
    raise_if_too_large(analyses)


def _suggestions(
    analyzer: Analyzer, analyses: list[WorkloadAnalysis], sizes: c.Mesh
) -> list[tuple[str, Suggestion | None]]:
    """A suggestion for every job that does not fit."""
    suggestions = []
    by_job = sorted(analyses, key=lambda analysis: analysis.workload.job)
    for job, group in itertools.groupby(by_job, key=lambda analysis: analysis.workload.job):
        job_analyses = list(group)
        if not all(analysis.fits for analysis in job_analyses):
            log(f"  {job} does not fit: searching for settings that do")
            workloads = [analysis.workload for analysis in job_analyses]
            suggestions.append((job, find_suggestion(analyzer, workloads, sizes)))
    return suggestions
