"""Checks of single steps, made for all steps of a run before the first one starts, and by the dry run."""

from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.evaluate import check_questions
from scotd_jax.jobs.graph import Step
from scotd_jax.jobs.preparation.prompt_lengths import PromptLengths
from scotd_jax.jobs.train import check_settings


def check_step(context: RunContext, step: Step, lengths: PromptLengths) -> None:
    """Checks that a step can run: its training settings, its questions, and the lengths of its prompts.

    Raises:
      InputError: as `check_settings`, `check_questions` and `PromptLengths.check`.
    """
    if step.job == "train":
        check_settings(context, step.name)
    if step.job == "evaluate":
        check_questions(context, step.name)
    lengths.check(step)
