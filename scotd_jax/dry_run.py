"""The dry run: which steps of a run would run, which are complete, and which would be refused and why.

Each job is called up to the point where its work would begin (`artefact.StopBeforeWork`), so a dry run makes the checks
of the real one. Nothing is written and nothing is computed on devices.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from scotd_jax import jobs
from scotd_jax.artefact import Artefact, StopBeforeWork
from scotd_jax.config import Config
from scotd_jax.errors import InputError
from scotd_jax.hub.download_progress import format_size
from scotd_jax.hub.hub_files import HubModel
from scotd_jax.jobs.graph import Step, needs
from scotd_jax.workdir import Workdir

# "unknown": kept or refused, depending on steps or downloads before it; "blocked": needs a refused step.
State = Literal["run", "resume", "complete", "unknown", "blocked", "refused"]


class StepPreview(NamedTuple):
    """The state that a run would give a step, and the reason, unless the state alone explains it."""

    step: Step
    state: State
    reason: str = ""


class RunPreview(NamedTuple):
    """The steps of a run, the files of the Hub that it would download with their sizes in bytes, and its pushes."""

    steps: list[StepPreview]
    downloads: Mapping[HubModel, Mapping[str, int]]
    pushes: Mapping[Step, str]


def preview(
    config: Config, workdir_path: str, steps: Sequence[Step], redo: Sequence[Step], skip_bad: bool
) -> RunPreview:
    """Returns the preview of every step, and the downloads and pushes of the run.

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
    from scotd_jax.jobs.preparation.hub_models import files_to_fetch, hub_models_of, pin_models
    from scotd_jax.jobs.preparation.prompt_lengths import PromptLengths
    from scotd_jax.jobs.preparation.push import check_pushes, pending_pushes
    from scotd_jax.jobs.preparation.step_checks import check_step

    workdir = Workdir(workdir_path, dry_run=True)
    config = pin_models(config, workdir, steps)
    unfinished = [step for step in steps if step in redo or not workdir.artefact(*step).complete]
    check_pushes(config, workdir, steps, redo, create=False)
    downloads = files_to_fetch(config, unfinished)
    context = make_context(config, workdir, skip_bad)
    lengths = PromptLengths(context)
    previews: dict[Step, StepPreview] = {}
    for step in steps:
        pending = [previews[each] for each in needs(config, step) if each in previews and _changes(previews[each])]
        if unread := [str(model) for model in hub_models_of(config, step) if model in downloads]:
            previews[step] = _preview_without_files(workdir.artefact(*step), step, step in redo, unread[0])
            continue
        try:
            if step in unfinished:
                check_step(context, step, lengths)
            previews[step] = _preview_step(context, config, workdir, step, step in redo, pending)
        except InputError as error:
            previews[step] = StepPreview(step, "refused", str(error))
    return RunPreview(list(previews.values()), downloads, pending_pushes(config, workdir, steps, redo))


def _changes(needed: StepPreview) -> bool:
    """Whether the run may change the artefact of a step."""
    return needed.state != "complete"


def _preview_without_files(artefact: Artefact, step: Step, redo: bool, model: str) -> StepPreview:
    """The preview of a step that reads files which are not downloaded yet, so that its checks cannot be made."""
    if artefact.manifest() and not redo:
        return StepPreview(step, "unknown", f"after the download of {model}: kept if nothing has changed, else refused")
    return StepPreview(step, "run", f"after the download of {model}")


def _preview_step(
    context, config: Config, workdir: Workdir, step: Step, redo: bool, pending: Sequence[StepPreview]
) -> StepPreview:
    """The preview of a step, given those of the `pending` steps whose results it needs."""
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
        missing = [needed.name for needed in needs(config, step) if not workdir.artefact(*needed).complete]
        return StepPreview(step, "run", f"without {', '.join(dict.fromkeys(missing))}" if missing else "")
    try:
        jobs.load(step.job)(context, step.name)
    except StopBeforeWork as stop:
        return StepPreview(step, stop.state)
    raise AssertionError(f"job {step.job!r} did not call Artefact.begin")


def format_preview(run: RunPreview) -> str:
    """Returns one line per step and a summary, then one line per file to download."""
    previews = run.steps
    width = max((len(str(preview.step)) for preview in previews), default=0)
    lines = [f"{preview.state:8}  {preview.step!s:{width}}  {preview.reason}".rstrip() for preview in previews]
    states = [preview.state for preview in previews]
    counts = ", ".join(f"{states.count(state)} {state}" for state in get_args(State) if state in states)
    lines.append(f"{len(states)} steps: {counts}")
    for model, files in run.downloads.items():
        lines.append(f"to download from {model}: {format_size(sum(files.values()))}")
        lines += [f"  {format_size(size):>7}  {name}" for name, size in files.items()]
    lines += [f"to push: {step} to {repo}" for step, repo in run.pushes.items()]
    return "\n".join(lines)
