"""Runs the steps of a config in a work directory, in order: complete artefacts are skipped, others resumed."""

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

from scotd_jax import config as c
from scotd_jax.errors import InputError, MissingResultsError

_PRIMARY_ONLY = ("report",)  # jobs that only one process runs while the others wait
INTERRUPTED, PREEMPTED = 130, 143  # exit statuses; shells use them for SIGINT and SIGTERM


class InterruptedRun(Exception):  # noqa: N818 (not an error)
    """Ctrl-C or SIGTERM during a step. The message states what is saved and how to resume.

    Attributes:
      status: the exit status, INTERRUPTED or PREEMPTED.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


def run(
    config_dict: Any,
    workdir_path: str,
    jobs: tuple[str, ...],
    overwrite: tuple[str, ...],
    multihost: str,
    skip_bad: bool = False,
    devices: int | None = None,
    verify: bool = False,
    command: str = "",
) -> None:
    """Runs the jobs of a config.

    Args:
      config_dict: the config as a mapping.
      workdir_path: the work directory.
      jobs: the jobs to run; () for all that the config defines.
      overwrite: artefacts to remove and recreate, each as JOB or JOB:NAME.
      multihost: how to connect to the other processes, as in --multihost; "" for a single process.
      skip_bad: whether broken rows of imported files are skipped.
      devices: the number of devices that all processes together must have; None for any.
      verify: whether all files of complete steps are compared with their digests first, also large ones.
      command: the command line, which the report shows; "" for none.

    Raises:
      InputError: on errors that the user can fix.
      InterruptedRun: on Ctrl-C or SIGTERM during a step.
    """
    config = c.from_mapping(c.Config, config_dict)
    from scotd_jax.jobs import graph  # reports unknown names before JAX is loaded

    if graph.PLAN in jobs:
        if len(jobs) > 1 or overwrite or multihost:
            raise InputError("--jobs=plan: runs alone, without other jobs, --overwrite and --multihost")
        from scotd_jax.jobs.plan import plan

        plan(config, workdir_path)
        return
    steps, redo = graph.chain(config, jobs or graph.JOBS), steps_to_redo(config, overwrite)

    from scotd_jax import jobs as job_functions
    from scotd_jax.distributed import hosts
    from scotd_jax.jobs.context import make_context
    from scotd_jax.jobs.preparation.hub_models import fetch_models, pin_models, pins
    from scotd_jax.jobs.preparation.prompt_lengths import PromptLengths
    from scotd_jax.jobs.preparation.push import check_pushes, push
    from scotd_jax.jobs.preparation.step_checks import check_step
    from scotd_jax.preemption import Preempted, handle_sigterm
    from scotd_jax.workdir import Workdir
    from scotd_jax.workdir_lock import lock_workdir

    if multihost:
        hosts.initialize(multihost)
    if devices:
        hosts.check_device_count(devices)
    workdir = Workdir(workdir_path, writes=hosts.is_primary())
    unpinned, config = config, pin_models(config, workdir, steps)
    context = make_context(config, workdir, skip_bad)
    lengths = PromptLengths(context)
    unfinished = [step for step in steps if step in redo or not workdir.artefact(*step).complete]
    if verify:
        kept = [step for step in steps if step not in unfinished]
        hosts.on_primary(lambda: [workdir.artefact(*step).check_files(full=True) for step in kept])
    for step in unfinished:
        check_step(context, step, lengths)
    hosts.on_primary(lambda: check_pushes(config, workdir, steps, redo))
    fetch_models(config, unfinished)
    number, step, started = 0, None, time.monotonic()
    try:
        with contextlib.ExitStack() as stack:
            # After all checks, so that a refused command changes nothing.
            hosts.on_primary(lambda: stack.enter_context(lock_workdir(workdir.root)))
            stack.enter_context(handle_sigterm())
            if hosts.is_primary():
                for redone in redo:
                    workdir.artefact(*redone).remove()
                workdir.save_config(c.plain(config))
                if command:
                    workdir.save_command(command)
                workdir.save_pinned_models(pins(unpinned, config))
            for number, step in enumerate(steps, 1):
                hosts.sync_processes(f"before {step}")
                context.log(f"[{number}/{len(steps)}] {step}")
                if hosts.is_primary() or step.job not in _PRIMARY_ONLY:
                    try:
                        job_functions.load(step.job)(context, step.name)
                    except MissingResultsError as missing:
                        messages = [str(missing), *_request_results(context, steps[number:])]
                        raise InputError("\n".join(messages)) from None
                if hosts.is_primary():
                    if step in unfinished:
                        workdir.record(*workdir.artefact(*step).unread_folders)
                    push(context, step)
    except KeyboardInterrupt as interrupt:
        status = PREEMPTED if isinstance(interrupt, Preempted) else INTERRUPTED
        artefact = None if step is None else workdir.artefact(*step)
        where = f"step {number} of {len(steps)} ({step})"
        raise InterruptedRun(_interrupt_message(artefact, where, status), status) from None
    context.log(f"done in {time.monotonic() - started:.0f} s: {json.dumps(str(workdir.root))}")


def _request_results(context: Any, steps: Iterable[Any]) -> Iterator[str]:
    """Writes the requests of the batch sources among the steps, so that all can be sent at once.

    Yields:
      Which results are missing, for every such source.
    """
    from scotd_jax.jobs.sample import sample

    for step in steps:
        if step.job == "sample" and isinstance(context.config.rationales[step.name], c.BatchSource):
            try:
                sample(context, step.name)
            except MissingResultsError as missing:
                yield str(missing)


def steps_to_redo(config: c.Config, overwrite: tuple[str, ...]) -> list[Any]:
    """Returns the steps whose artefacts --overwrite removes and recreates, as `jobs.graph.Step`.

    Raises:
      InputError: if an item does not name a job, or an artefact of the job.
    """
    from scotd_jax.errors import lookup
    from scotd_jax.jobs.graph import JOBS, Step, chain

    redo = []
    for item in overwrite:
        job, _, name = item.partition(":")
        lookup(dict.fromkeys(JOBS), job, "--overwrite")
        names = [step.name for step in chain(config, (job,))]
        if name:
            lookup(dict.fromkeys(names), name, f"--overwrite={job}")
        redo += [Step(job, step_name) for step_name in ([name] if name else names)]
    return redo


def _interrupt_message(artefact: Any, where: str, status: int) -> str:
    """The message for an interrupted run: where it was, what is saved and how to resume.

    Args:
      artefact: the artefact of the interrupted step; None before the first step.
      where: the step, in words.
      status: INTERRUPTED or PREEMPTED.
    """
    reason = "ended by SIGTERM" if status == PREEMPTED else "interrupted"
    if artefact is None:
        return f"{reason} before the first step; the same command starts again"
    saved = {
        "sample": "its responses so far are saved",
        "score": "its scores so far are saved",
        "build": "its finished shards are saved",
        "train": "it has no checkpoint yet",
        "evaluate": "its responses so far are saved",
        "export": "it starts over",
        "report": "it starts over",
    }[artefact.job]
    if artefact.job == "train":
        folder = artefact.path / "checkpoints"
        steps = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.exists() else []
        if steps:
            saved = f"its checkpoint of update {max(steps)} is saved"
    return f"{reason} in {where}: {saved}; the same command resumes"
