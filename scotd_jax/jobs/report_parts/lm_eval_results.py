"""Writes the evaluations of a run in the layout of lm-eval, with their prompts."""

from collections.abc import Mapping, Sequence

from etils import epath

from scotd_jax.config import EvalSpec, GeneratedSource
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.prompting import PromptBuilder, evaluation_prompt_settings, source_prompt_settings
from scotd_jax.records import Prompt, Question, Response
from scotd_jax.reporting.lm_eval_files import EvaluatedSet, write_lm_eval_files
from scotd_jax.tasks.question_sets import file_stem
from scotd_jax.tasks.recipes import needs_rationale


def write_lm_eval_results(
    context: RunContext,
    spec: EvalSpec,
    evaluated: Mapping[str, tuple[Sequence[Question], Sequence[Response]]],
    folder: epath.Path,
) -> None:
    """Writes one evaluation to FOLDER.

    Args:
      context: the run.
      spec: the evaluation.
      evaluated: question set -> its questions and the responses to them.
      folder: folder of this evaluation alone, which is written anew.
    """
    prompts, limit = _prompt_builder(context, spec)
    sets = {
        file_stem(set_name): EvaluatedSet(questions, rows, _prompts(context, prompts, set_name, questions, rows))
        for set_name, (questions, rows) in evaluated.items()
    }
    few_shot = prompts.settings.few_shot if prompts else 0
    write_lm_eval_files(folder, spec.arm, sets, few_shot, limit)


def _prompt_builder(context: RunContext, spec: EvalSpec) -> tuple[PromptBuilder | None, int]:
    """The builder of an evaluation's prompts, None for imported responses, and the limit of new tokens."""
    config = context.config
    if not spec.responses:
        settings = evaluation_prompt_settings(config, spec)
        return context.prompt_builder(settings), config.evaluation.sampling.max_new_tokens
    source = config.rationales[spec.responses]
    if not isinstance(source, GeneratedSource):
        return None, 0
    settings = source_prompt_settings(config, source, f"config.rationales.{spec.responses}")
    return context.prompt_builder(settings), source.sampling.max_new_tokens


def _prompts(
    context: RunContext,
    prompts: PromptBuilder | None,
    set_name: str,
    questions: Sequence[Question],
    rows: Sequence[Response],
) -> dict[str, Prompt]:
    """The prompt of every question; the question itself where the prompt is unknown."""
    if prompts is None:
        return {question.id: question.text for question in questions}
    tasks = context.reported_questions(set_name)
    rationales = {row.question_id: row.rationale for row in reversed(rows)} if needs_rationale(prompts.recipe) else {}
    return {q.id: prompts.prompt(q, tasks[q.id][1], rationales.get(q.id)) for q in questions}
