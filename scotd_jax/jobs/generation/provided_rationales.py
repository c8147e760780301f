"""Loads the rationales for students whose prompts contain one, e.g. those of another model."""

from collections.abc import Sequence

from scotd_jax.config import RationaleControl
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.local import RationalesById
from scotd_jax.rationales.controls import apply_control
from scotd_jax.rationales.store import read_responses
from scotd_jax.records import Response
from scotd_jax.tasks.question_loader import QuestionsById
from scotd_jax.tasks.recipes import needs_rationale


def load_provided_rationales(
    context: RunContext,
    student: str,
    sources: Sequence[str],
    questions: QuestionsById,
    control: RationaleControl,
    n: int,
) -> RationalesById | None:
    """Loads the first n rationales of every question.

    Args:
      context: the run.
      student: name of the student.
      sources: the sets of responses with the rationales.
      questions: the questions.
      control: change to the rationales; "own" for none.
      n: number of rationales per question.

    Returns:
      The rationales by question id; None if the student's recipe has no rationale in its prompts.

    Raises:
      InputError: if a question has fewer than n rationales, or if the recipe has no rationale in its prompts, but
        sources, a control or n are set.
    """
    corpus = context.config.students[student].corpus
    recipe = context.config.corpora[corpus].recipe
    if not needs_rationale(context.recipes[corpus]):
        if sources or n != 1 or control != "own":
            raise InputError(
                f"student {student!r}: its recipe {recipe!r} reads no rationales; remove rationales_from, "
                "rationale_control and n"
            )
        return None
    if not sources:
        raise InputError(
            f"student {student!r}: its recipe {recipe!r} reads rationales; name the sets in `rationales_from`"
        )
    found: dict[str, list[Response]] = {id_: [] for id_ in questions}
    for source in sources:
        for row in read_responses(context.response_files(source)):
            if row.question_id in found:
                found[row.question_id].append(row)
    for id_, rows in found.items():
        if len(rows) < n:
            raise InputError(
                f"question {id_!r}: student {student!r} needs {n} rationales, but {', '.join(sources)} "
                f"hold {len(rows)}; sample them for this question set, too"
            )
    groups = ((questions[id_][0], sorted(rows, key=lambda row: row.sample_index)[:n]) for id_, rows in found.items())
    return {question.id: [row.rationale or "" for row in rows] for question, rows in apply_control(control, groups)}
