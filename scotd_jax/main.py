"""The door: `python -m scotd_jax.main --config=configs/NAME.py[:key=value,...] --workdir=DIR`.

Reads the config, turns it into frozen dataclasses, and runs its jobs in order over the work directory. A finished
artefact is skipped, a cut one goes on: the same command again is the way to resume. Exit status: 0 when all jobs
are done, 2 when the input is at fault (the message says which file and what to do), 1 on a bug of ours.
"""

import json
import sys
import time
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from scotd_jax import config as c
from scotd_jax.errors import InputError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, e.g. configs/world.py or configs/world.py:seed=1"
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where artefacts live; a local folder or gs://...", required=True)
_JOBS = flags.DEFINE_list(
    "jobs", None, "Only these jobs: sample,build,train,evaluate,export,report; or plan, which only says what they need"
)
_OVERWRITE = flags.DEFINE_list("overwrite", [], "Make again: JOB (all of its artefacts) or JOB:NAME (one)")
_MULTIHOST = flags.DEFINE_string(
    "multihost", "", "Join the other processes first: 'auto' on TPU and Slurm, or HOST:PORT,PROCESS,PROCESSES"
)
_SKIP_BAD = flags.DEFINE_bool(
    "skip-bad", False, "Leave out broken rows of imported files, counted in rationales/NAME/ledger.json; else they stop"
)
flags.mark_flag_as_required("config")
ALONE = ("report",)  # jobs that one process does while the others wait


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        print(f"error: unexpected argument {argv[1]!r}; everything is a flag, see --help", file=sys.stderr)
        return 2
    logging.set_verbosity(logging.ERROR)  # what is worth saying is said by the jobs
    try:
        chosen = tuple(_JOBS.value or ()), tuple(_OVERWRITE.value)
        run(_CONFIG.value, _WORKDIR.value, *chosen, _MULTIHOST.value, _SKIP_BAD.value)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(
    config_dict: Any,
    workdir_path: str,
    jobs: tuple[str, ...],
    overwrite: tuple[str, ...],
    multihost: str,
    skip_bad: bool = False,
) -> None:
    """Raises InputError on everything that the user can mend."""
    config = c.from_mapping(c.Config, config_dict)
    from scotd_jax.jobs import graph  # standard library only: a wrong name is said before JAX is loaded

    if graph.PLAN in jobs:
        if len(jobs) > 1 or overwrite or multihost:
            raise InputError("--jobs=plan: goes by itself, without other jobs, --overwrite and --multihost")
        from scotd_jax.jobs.plan import plan

        plan(config, workdir_path)
        return
    steps, again = graph.chain(config, jobs or graph.JOBS), _overwritten(config, overwrite)

    from scotd_jax import jobs as package
    from scotd_jax.distributed import hosts
    from scotd_jax.workdir import Workdir

    if multihost:
        hosts.initialize(multihost)
    workdir = Workdir(workdir_path, writes=hosts.is_primary())
    from scotd_jax.jobs.context import make_context

    context = make_context(config, workdir, skip_bad)
    for step in steps:
        if step.job == "train" and (step in again or not workdir.artefact(*step).complete):
            from scotd_jax.jobs.train import check_settings

            check_settings(context, step.name)
    if hosts.is_primary():  # nothing is removed before everything else has been found in order
        for step in again:
            workdir.artefact(*step).remove()
        workdir.save_config(c.plain(config))
    started = time.monotonic()
    for number, step in enumerate(steps, 1):
        hosts.sync_processes(f"before {step}")
        context.log(f"[{number}/{len(steps)}] {step}")
        if hosts.is_primary() or step.job not in ALONE:
            package.load(step.job)(context, step.name)
    context.log(f"done in {time.monotonic() - started:.0f} s: {json.dumps(str(workdir.root))}")


def _overwritten(config: c.Config, overwrite: tuple[str, ...]) -> list[Any]:
    """The steps whose artefacts are to be made again."""
    from scotd_jax.jobs.graph import JOBS, Step, chain, lookup

    again = []
    for item in overwrite:
        job, _, name = item.partition(":")
        lookup(dict.fromkeys(JOBS), job, "--overwrite")
        names = [step.name for step in chain(config, (job,))]
        if name:
            lookup(dict.fromkeys(names), name, f"--overwrite={job}")
        again += [Step(job, each) for each in ([name] if name else names)]
    return again


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with the errors of config files and overrides said the way `main` says them."""
    try:
        rest = flags.FLAGS(argv)
        _CONFIG.value.keys()  # a file that could not be read is only said on first use
        return rest
    except AttributeError as error:  # how ml_collections refuses --config.KEY that the config does not have
        words = str(error).replace("\\n", " ").replace("\\", "").strip("\"'")
        print(f"error: --config.KEY=VALUE: no such key: {words}", file=sys.stderr)
        sys.exit(2)
    except (InputError, flags.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError:
        path = next((a.partition("=")[2] for a in argv if a.startswith("--config=")), "")
        print(f"error: --config: no config file at {path.partition(':')[0]!r}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
