"""Runs the steps of a config in a work directory, in order: complete artefacts are skipped, others resumed."""

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
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
    parallel: int = 1,
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
      parallel: number of steps that run at a time, each on an equal share of the devices.

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
    from scotd_jax.jobs.context import RunContext, make_context
    from scotd_jax.jobs.preparation.hub_models import fetch_models, pin_models, pins
    from scotd_jax.jobs.preparation.prompt_lengths import PromptLengths
    from scotd_jax.jobs.preparation.push import check_pushes, push
    from scotd_jax.jobs.preparation.step_checks import check_step
    from scotd_jax.parallel_steps import default_device, device_shares, run_parallel
    from scotd_jax.preemption import Preempted, handle_sigterm, is_received
    from scotd_jax.progress import prefixed
    from scotd_jax.workdir import Workdir
    from scotd_jax.workdir_lock import lock_workdir

    if multihost:
        hosts.initialize(multihost)
    if devices:
        hosts.check_device_count(devices)
    if parallel > 1 and config.profile.first:
        raise InputError("--parallel: only one step at a time can be profiled; remove config.profile.first")
    workdir = Workdir(workdir_path, writes=hosts.is_primary())
    unpinned, config = config, pin_models(config, workdir, steps)
    contexts = [make_context(config, workdir, skip_bad, share) for share in device_shares(parallel)]
    context = contexts[0]
    lengths = PromptLengths(context)
    unfinished = [step for step in steps if step in redo or not workdir.artefact(*step).complete]
    if verify:
        kept = [step for step in steps if step not in unfinished]
        hosts.on_primary(lambda: [workdir.artefact(*step).check_files(full=True) for step in kept])
    for step in unfinished:
        check_step(context, step, lengths)
    hosts.on_primary(lambda: check_pushes(config, workdir, steps, redo))
    fetch_models(config, unfinished)
    started, numbers, recording = time.monotonic(), itertools.count(1), threading.Lock()
    running: dict[graph.Step, int] = {}  # the steps that run, and their numbers

    def run_step(step: graph.Step, step_context: RunContext) -> None:
        hosts.sync_processes(f"before {step}")
        running[step] = next(numbers)
        context.log(f"[{running[step]}/{len(steps)}] {step}")
        if hosts.is_primary() or step.job not in _PRIMARY_ONLY:
            try:
                job_functions.load(step.job)(step_context, step.name)
            except MissingResultsError as missing:
                others = (other for other in steps[steps.index(step) + 1 :] if other not in running)
                messages = [str(missing), *_request_results(step_context, others)]
                raise InputError("\n".join(messages)) from None
        if hosts.is_primary():
            with recording:
                if step in unfinished:
                    workdir.record(*workdir.artefact(*step).unread_folders)
                push(step_context, step)
        del running[step]

    def run_on_share(step: graph.Step, step_context: RunContext) -> None:
        with default_device(step_context.mesh), prefixed(f"{step}: "):
            run_step(step, step_context)

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
            if parallel == 1:
                for step in steps:
                    if is_received():  # a library has dropped the exception
                        raise Preempted
                    run_step(step, context)
            else:
                run_parallel(steps, lambda step: _needed(config, step, steps), contexts, run_on_share)
    except KeyboardInterrupt as interrupt:
        status = PREEMPTED if isinstance(interrupt, Preempted) else INTERRUPTED
        interrupted = [(workdir.artefact(*step), f"step {n} of {len(steps)} ({step})") for step, n in running.items()]
        message = _interrupt_message(interrupted, status, next(numbers) > 1)
        if status == PREEMPTED:  # all processes end; after Ctrl-C only this one
            hosts.disconnect()
        raise InterruptedRun(message, status) from None
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


def _needed(config: c.Config, step: Any, steps: Sequence[Any]) -> Iterator[Any]:
    """The steps that a step needs, also by way of steps that are not among `steps`."""
    from scotd_jax.jobs.graph import needs

    for needed in needs(config, step):
        yield needed
        if needed not in steps:
            yield from _needed(config, needed, steps)


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


def _interrupt_message(interrupted: Sequence[tuple[Any, str]], status: int, has_begun: bool) -> str:
    """The message for an interrupted run: where it was, what is saved and how to resume.

    Args:
      interrupted: the artefacts of the interrupted steps, and the steps in words.
      status: INTERRUPTED or PREEMPTED.
      has_begun: whether a step has begun.
    """
    reason = "ended by SIGTERM" if status == PREEMPTED else "interrupted"
    if not has_begun:
        return f"{reason} before the first step; the same command starts again"
    if not interrupted:
        return f"{reason} between two steps; the same command resumes"
    saved = [f"{where}: {_saved(artefact)}" for artefact, where in interrupted]
    return f"{reason} in {'; in '.join(saved)}; the same command resumes"


def _saved(artefact: Any) -> str:
    """What is saved of the artefact of an interrupted step."""
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
    return saved
