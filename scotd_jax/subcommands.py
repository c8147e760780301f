"""The commands of the command line besides the run itself (running.py): dry run, inspection, preferences and scores.

Each function takes the values of its flags. JAX and the jobs are imported only after the config has been read, so that
its errors are reported at once.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.running import steps_to_redo

OK, INPUT_ERROR = 0, 2  # exit statuses; see also running.py


class Output(NamedTuple):
    """What a command prints, and its exit status."""

    text: str
    status: int = OK


def dry_run(
    config_dict: Any,
    workdir_path: str,
    jobs: tuple[str, ...],
    overwrite: tuple[str, ...],
    multihost: str,
    skip_bad: bool = False,
) -> Output:
    """Returns for each step whether it would run; the status is 2 if one would be refused. Arguments as of `run`.

    Raises:
      InputError: if the whole run would be refused, or it is combined with --jobs=plan or --multihost.
    """
    config = c.from_mapping(c.Config, config_dict)
    from scotd_jax.jobs import graph

    if graph.PLAN in jobs or multihost:
        raise InputError("--dry-run: cannot be combined with --jobs=plan or --multihost")
    steps, redo = graph.chain(config, jobs or graph.JOBS), steps_to_redo(config, overwrite)
    from scotd_jax.dry_run import format_preview, preview

    run_preview = preview(config, workdir_path, steps, redo, skip_bad)
    is_refused = any(step_preview.state == "refused" for step_preview in run_preview.steps)
    return Output(format_preview(run_preview), INPUT_ERROR if is_refused else OK)


def show_prompts(config_dict: Any, workdir: str | None, count: int | None) -> Output:
    """Returns the prompts of `jobs.inspection.commands.show_prompts`, by default for one question per model."""
    config = c.from_mapping(c.Config, config_dict)
    from scotd_jax.jobs.inspection import commands

    return Output(commands.show_prompts(config, workdir, count or 1))


def show_examples(config_dict: Any, workdir: str, count: int | None) -> Output:
    """Returns the responses of `jobs.inspection.commands.show_examples`, by default one per bin."""
    config = c.from_mapping(c.Config, config_dict)
    from scotd_jax.jobs.inspection import commands

    return Output(commands.show_examples(config, workdir, count or 1))


def make_preference_page(
    config_dict: Any, workdir: str, arms: tuple[str, ...], set_name: str | None, count: int | None
) -> Output:
    """Makes a page (`jobs.preferences.preference_commands`), by default of up to 100 pairs, and returns where it is."""
    config = c.from_mapping(c.Config, config_dict)
    from scotd_jax.jobs.preferences import preference_commands

    return Output(preference_commands.make_preference_page(config, workdir, arms, set_name, count or 100))


def read_preferences(config_dict: Any, workdir: str) -> Output:
    """Returns the results of `jobs.preferences.preference_commands.read_preferences`."""
    config = c.from_mapping(c.Config, config_dict)
    from scotd_jax.jobs.preferences import preference_commands

    return Output(preference_commands.read_preferences(config, workdir))


def score(files: Sequence[str], questions: str, config_dict: Any, lm_eval_filter: str | None) -> Output:
    """Returns the scores of prediction files (`jobs.predictions.score_predictions`).

    Args:
      files: the prediction files.
      questions: a question file, or with a config its question sets.
      config_dict: the config as a mapping, or None.
      lm_eval_filter: filter of lm-eval's samples.

    Raises:
      InputError: if there are no files, or the predictions cannot be scored.
    """
    if not files:
        raise InputError("score: needs the files with predictions; for example scotd-jax score predictions.jsonl")
    config = None if config_dict is None else c.from_mapping(c.Config, config_dict)
    from scotd_jax.jobs.predictions.score_predictions import score_predictions

    return Output(score_predictions(files, questions, config, lm_eval_filter))


def verify(workdirs: Sequence[str]) -> Output:
    """Returns whether the artefacts of a work directory are intact; the status is 2 if one is damaged.

    Args:
      workdirs: the work directory alone.

    Raises:
      InputError: if there is not exactly one work directory, or it has no artefacts.
    """
    if len(workdirs) != 1:
        raise InputError("verify: expected one work directory: scotd-jax verify DIR")
    from scotd_jax.jobs.inspection import commands

    text, is_intact = commands.verify_workdir(workdirs[0])
    return Output(text, OK if is_intact else INPUT_ERROR)
