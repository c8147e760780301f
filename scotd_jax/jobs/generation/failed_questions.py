"""Rounds of sampling: a set of responses only for the questions that another set has not answered correctly."""

from scotd_jax.config import GeneratedSource
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import RunContext
from scotd_jax.rationales.store import read_responses
from scotd_jax.tasks.question_loader import QuestionsById


def failed_questions(context: RunContext, name: str, questions: QuestionsById) -> QuestionsById:
    """Returns the questions of config.rationales.NAME without a correct response in the set `failed_in`.

    Raises:
      InputError: if the other set has responses without a gold answer, or a correct response to every question.
    """
    spec = context.config.rationales[name]
    assert isinstance(spec, GeneratedSource)
    where, solved = f"config.rationales.{name}.failed_in", set()
    for row in read_responses(context.response_files(spec.failed_in)):
        if row.correct is None and row.question_id in questions:
            raise InputError(
                f"{where}: question {row.question_id!r} has no gold answer, so it is unknown whether "
                f"{spec.failed_in!r} fails on it; choose question sets with gold answers"
            )
        if row.correct:
            solved.add(row.question_id)
    failed = {id_: entry for id_, entry in questions.items() if id_ not in solved}
    context.log(f"  {len(failed)} of {len(questions)} questions have no correct response in {spec.failed_in}")
    if not failed:
        raise InputError(
            f"{where}: {spec.failed_in!r} has a correct response to each of the {len(questions)} questions, so there "
            "is nothing to sample; remove this set, or compare with fewer responses per question"
        )
    return failed
