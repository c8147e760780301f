"""The dry run: which steps of a run would run, which are complete, and which would be refused and why.

Each job is called up to the point where its work would begin (`workdir.StopBeforeWork`), so a dry run makes the checks
of the real one. Nothing is written and nothing is computed on devices.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from scotd_jax import jobs
from scotd_jax.config import Config
from scotd_jax.errors import InputError
from scotd_jax.jobs.graph import Step, needs
from scotd_jax.workdir import StopBeforeWork, Workdir

State = Literal["run", "resume", "complete", "unknown", "blocked", "refused"]


class StepPreview(NamedTuple):
    """What would become of a step. `reason` explains it where the state alone does not."""

    step: Step
    state: State
    reason: str = ""


def preview(
    config: Config, workdir_path: str, steps: Sequence[Step], redo: Sequence[Step], skip_bad: bool
) -> list[StepPreview]:
    """Returns what would become of each step.

    Args:
      config: the config.
      workdir_path: the work directory; it need not exist.
      steps: the steps in order.
      redo: the steps whose artefacts would be removed first (--overwrite).
      skip_bad: whether broken rows of imported files are skipped.

    Raises:
      InputError: if the whole run would be refused, e.g. because the mesh does not fit the devices.
    """
    from scotd_jax.jobs.context import make_context
    from scotd_jax.jobs.evaluate import check_questions
    from scotd_jax.jobs.prompt_lengths import PromptLengths
    from scotd_jax.jobs.train import check_settings

    workdir = Workdir(workdir_path, dry_run=True)
    context = make_context(config, workdir, skip_bad)
    lengths = PromptLengths(context)
    previews: dict[Step, StepPreview] = {}
    for step in steps:
        pending = [previews[each] for each in needs(config, step) if each in previews and _changes(previews[each])]
        try:
            if step in redo or not workdir.artefact(*step).complete:
                if step.job == "train":
                    check_settings(context, step.name)
                if step.job == "evaluate":
                    check_questions(context, step.name)
                lengths.check(step)
            previews[step] = _preview_step(context, config, workdir, step, step in redo, pending)
        except InputError as error:
            previews[step] = StepPreview(step, "refused", str(error))
    return list(previews.values())


def _changes(needed: StepPreview) -> bool:
    """Whether the artefact of a step may be another one after the run."""
    return needed.state != "complete"


def _preview_step(
    context, config: Config, workdir: Workdir, step: Step, redo: bool, pending: Sequence[StepPreview]
) -> StepPreview:
    if refused := [each.step for each in pending if each.state in ("refused", "blocked")]:
        return StepPreview(step, "blocked", f"needs {refused[0]}")
    if pending:
        after = f"after {pending[0].step}"
        if workdir.artefact(*step).manifest() and not redo:
            return StepPreview(step, "unknown", f"{after}: kept if that yields the same result, else refused")
        return StepPreview(step, "run", after)
    if redo:
        return StepPreview(step, "run", "from the start (--overwrite)")
    if step.job == "report":  # always written anew
        for needed in needs(config, step):
            _ = workdir.artefact(*needed).digest
        return StepPreview(step, "run")
    try:
        jobs.load(step.job)(context, step.name)
    except StopBeforeWork as stop:
        return StepPreview(step, stop.state)
    raise AssertionError(f"job {step.job!r} did not call Artefact.begin")


def format_previews(previews: Sequence[StepPreview]) -> str:
    """Returns one line per step and a summary."""
    width = max((len(str(preview.step)) for preview in previews), default=0)
    lines = [f"{preview.state:8}  {preview.step!s:{width}}  {preview.reason}".rstrip() for preview in previews]
    states = [preview.state for preview in previews]
    counts = ", ".join(f"{states.count(state)} {state}" for state in get_args(State) if state in states)
    return "\n".join([*lines, f"{len(states)} steps: {counts}"])
