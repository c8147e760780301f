"""The plan job: what a run will need, said before hardware is rented for it.

Every program of the chain is compiled for a named topology that need not be there, or counted where that cannot be
done. Nothing is read but the config (and the files of tasks, if they are here), nothing is made but DIR/plan.json.
"""

import itertools
import json
import time

import jax

from scotd_jax import config as c
from scotd_jax.distributed import topologies
from scotd_jax.distributed.mesh import make_abstract_mesh, mesh_shape
from scotd_jax.errors import InputError
from scotd_jax.jobs import graph
from scotd_jax.jobs.planning import render, suggestions
from scotd_jax.jobs.planning.assumptions import Assumed
from scotd_jax.jobs.planning.lowered_programs import check
from scotd_jax.jobs.planning.outcomes import Planner
from scotd_jax.jobs.planning.workloads import works
from scotd_jax.progress import log
from scotd_jax.workdir import Workdir, write_text


def plan(config: c.Config, workdir: str) -> None:
    """Prints the plan and writes it to WORKDIR/plan.json.

    Raises InputError on a topology that there is not, sizes that do not fit it, settings that fit nowhere, and, after
    everything is said, if something does not fit.
    """
    graph.chain(config)
    if not config.plan.topology:
        raise InputError("config.plan.topology: on what? For example --config.plan.topology=v5e-16")
    topology = topologies.parse_topology(config.plan.topology, "config.plan.topology")
    topologies.use_cpu_only(topology.chips if topology.chip.platform == "cpu" else 1)
    mesh_shape(config.mesh, topology.chips)
    begun = time.monotonic()
    assumed = Assumed(config)
    planner = Planner(topology, config.plan.compile_layers, log)
    with jax.debug_key_reuse(False):  # which keys are used how often is no question of sizes
        todo = works(config, assumed)
        for work in todo:  # what is wrong in the config is said before minutes of compiling
            check(work, make_abstract_mesh(config.mesh, topology.chips), planner.platform)
        found = [planner.look(work, config.mesh, compile=True) for work in todo]
        advice = []
        for job, group in itertools.groupby(sorted(found, key=lambda o: o.work.job), key=lambda o: o.work.job):
            group = list(group)
            if not all(outcome.fits for outcome in group):
                log(f"  {job} does not fit: looking for what would")
                advice.append((job, suggestions.find(planner, [outcome.work for outcome in group], config.mesh)))
    done = render.Plan(config.name, config.plan, topology, planner.reason, found, advice, list(assumed.notes))
    print(render.as_text(done))
    path = Workdir(workdir).root / "plan.json"
    write_text(path, json.dumps(render.as_json(done), indent=2) + "\n")
    log(f"planned in {time.monotonic() - begun:.0f} s: {path}")
    suggestions.refuse(found)
