"""The evaluate job: stores and scores the responses of a student to question sets."""

import json
from typing import Any

from etils import epath

from scotd_jax.config import EvalSpec, Model
from scotd_jax.distributed import hosts
from scotd_jax.evaluation.contrast import contrast_consistency, describe_unpaired
from scotd_jax.evaluation.scoring import outcomes, score
from scotd_jax.evaluation.voting import self_consistency
from scotd_jax.jobs import manifests
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.combining import answer_by_marginal, answer_by_vote
from scotd_jax.jobs.generation.local import PromptedModel, RationalesById, generate, load_prompted_model
from scotd_jax.jobs.generation.prompting import prompt_settings
from scotd_jax.jobs.generation.provided_rationales import load_provided_rationales
from scotd_jax.jobs.graph import eval_specs
from scotd_jax.rationales.store import read_responses
from scotd_jax.records import Question, Response
from scotd_jax.tasks.question_loader import QuestionsById
from scotd_jax.tasks.question_sets import file_stem
from scotd_jax.workdir import write_text


def evaluate(context: RunContext, name: str) -> None:
    """Evaluates a student: evaluations/NAME with SET.responses.jsonl for every set, results.json, and manifest.

    With several rationales per question, SET.each.responses.jsonl contains one answer per rationale, and
    SET.responses.jsonl the combined answers. Reported sets may be added and dropped: those of the other sets are kept.
    """
    spec, settings = eval_specs(context.config)[name], context.config.evaluation
    student = context.config.students[spec.student]
    artefact = context.artefact("evaluate", name)
    few_shot = context.config.corpora[student.corpus].few_shot if spec.few_shot < 0 else spec.few_shot
    if not artefact.begin(manifests.evaluation_identity(context, name, few_shot), manifests.BY_SET):
        context.log("  already complete")
        return
    as_trained = Model(student=spec.student)
    prompts = prompt_settings(context.config, as_trained, few_shot=few_shot)
    model = load_prompted_model(context, spec.student, as_trained, student.precision, prompts)
    results: dict[str, dict[str, Any]] = {}
    all_questions: list[Question] = []
    correct: dict[str, float] = {}
    for set_name in spec.eval_sets:
        by_id = context.reported_questions(set_name)
        questions = [question for question, _ in by_id.values()]
        rationales = load_provided_rationales(
            context, spec.student, spec.rationales_from, by_id, spec.rationale_control, spec.n
        )
        rows = _answer(context, model, spec, set_name, by_id, rationales, artefact.path)
        results[set_name] = score(questions, rows, settings.confidence)
        if settings.self_consistency.n and rationales is None:
            samples = _sample(context, model, set_name, by_id, artefact.path)
            vote = self_consistency(questions, samples, confidence=settings.confidence)
            results[set_name]["self_consistency"] = vote
        context.log(f"  {set_name}: {_describe(results[set_name], rows)}")
        all_questions += questions
        correct |= outcomes(questions, rows)
    if unpaired := describe_unpaired(all_questions):
        context.log(f"  {unpaired}")
    output = {"sets": results, "contrast": contrast_consistency(all_questions, correct, settings.confidence)}
    if hosts.is_primary():
        write_text(artefact.path / "results.json", json.dumps(output, indent=2) + "\n")
    artefact.finish({key: result["accuracy"] for key, result in results.items()}, output)


def _describe(result: dict[str, Any], rows: list[Response]) -> str:
    unreadable = sum(row.answer is None for row in rows)
    line = f"accuracy {100 * result['accuracy']:.1f} of {result['n']} questions"
    return line + (f", {unreadable} answers could not be read" if unreadable else "")


def _answer(
    context: RunContext,
    model: PromptedModel,
    spec: EvalSpec,
    set_name: str,
    questions: QuestionsById,
    rationales: RationalesById | None,
    folder: epath.Path,
) -> list[Response]:
    """Generates one answer per question, or with several rationales combines one answer from those to all of them."""
    sampling = context.config.evaluation.sampling
    if rationales is None or (spec.n == 1 and spec.combine == "vote"):
        stem, seed = f"{file_stem(set_name)}.responses", context.config.seed
        paths = generate(
            context, model, questions, sampling, seed=seed, folder=folder, stem=stem, rationales=rationales
        )
    else:
        combine = answer_by_vote if spec.combine == "vote" else answer_by_marginal
        paths = combine(context, model, questions, rationales, sampling, folder, set_name)
    return list(read_responses(paths))


def _sample(
    context: RunContext, model: PromptedModel, set_name: str, questions: QuestionsById, folder: epath.Path
) -> list[Response]:
    """Several sampled responses per question, for self-consistency."""
    sampling = context.config.evaluation.self_consistency
    stem = f"{file_stem(set_name)}.n{sampling.n}.responses"
    paths = generate(context, model, questions, sampling, seed=context.config.seed, folder=folder, stem=stem)
    return list(read_responses(paths))
