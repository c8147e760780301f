"""Evaluated question sets of a run: their labels in the report, and the responses to them."""

from scotd_jax.config import EvalSpec, compared_arms
from scotd_jax.jobs.context import RunContext
from scotd_jax.rationales.store import read_responses
from scotd_jax.records import Question, Response
from scotd_jax.tasks.question_sets import file_stem


def set_label(context: RunContext, set_name: str) -> str:
    """Returns the label of a question set in the report. Tasks with the same title share a column."""
    return compared_arms.set_label(context.config, set_name)


def read_evaluated(
    context: RunContext, name: str, set_name: str, read: str = "text"
) -> tuple[list[Question], list[Response]]:
    """Returns the questions of an evaluated set, and the responses to them under one reading."""
    return _read_rows(context, name, set_name, "responses" if read == "text" else f"{read}.responses")


def read_changed(context: RunContext, name: str, set_name: str, change: str) -> tuple[list[Question], list[Response]]:
    """Returns the questions of an evaluated set, and the answers to them after a change of the rationales."""
    return _read_rows(context, name, set_name, f"choices.{change}.responses")


def read_samples(
    context: RunContext, name: str, spec: EvalSpec, set_name: str, read: str, k: int
) -> tuple[list[Question], list[Response]]:
    """Returns the questions of an evaluated set, and the k samples of each that vote."""
    if read == "choices":
        return _read_rows(context, name, set_name, "choices.samples.responses")
    return _read_rows(context, name, set_name, "responses" if spec.responses else f"n{k}.responses")


def _read_rows(context: RunContext, name: str, set_name: str, suffix: str) -> tuple[list[Question], list[Response]]:
    path = context.checked("evaluate", name).path / f"{file_stem(set_name)}.{suffix}.jsonl"
    rows = list(read_responses([path]))
    answered = {row.question_id for row in rows}  # all questions, except those for which a teacher has no response
    questions = [question for id_, (question, _) in context.reported_questions(set_name).items() if id_ in answered]
    return questions, rows
