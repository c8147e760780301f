"""Combines the answers after several rationales into one: by majority vote, or by summing their probabilities."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Set

import numpy as np
from etils import epath

from scotd_jax.config import Sampling
from scotd_jax.distributed import hosts
from scotd_jax.errors import InputError
from scotd_jax.evaluation.marginalization import log_marginal
from scotd_jax.evaluation.voting import majority_vote
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.choices import ChoiceScore, score_choices, unanswered
from scotd_jax.jobs.generation.local import PromptedModel, RationalesById
from scotd_jax.jobs.generation.writing import write_missing
from scotd_jax.records import Response
from scotd_jax.tasks.prompt_formats import is_correct
from scotd_jax.tasks.question_loader import QuestionsById
from scotd_jax.tasks.question_sets import file_stem


def answer_by_vote(
    context: RunContext,
    answers: Iterable[Response],
    questions: QuestionsById,
    folder: epath.Path,
    set_name: str,
    stem: str,
) -> list[epath.Path]:
    """Writes, for every question, the answer with the most votes among its `answers`, one per rationale.

    Returns:
      The files of the answers.
    """
    by_question: dict[str, list[Response]] = {}
    for row in answers:
        by_question.setdefault(row.question_id, []).append(row)

    def missing(done: Set[tuple[str, int]]) -> tuple[int, Iterator[list[Response]]]:
        votes = [answers for id_, answers in by_question.items() if (id_, 0) not in done]
        rows = [_majority_response(answers) for answers in hosts.local_share(votes)]
        return len(rows), iter([rows])

    label = "  majority vote"
    return write_missing(context, missing, folder, stem, list(questions), label=label, scope=set_name)


def answer_by_marginal(
    context: RunContext,
    model: PromptedModel,
    questions: QuestionsById,
    rationales: RationalesById,
    sampling: Sampling,
    folder: epath.Path,
    set_name: str,
) -> list[epath.Path]:
    """Writes, for every question, the answer with the largest sum of probabilities over the rationales.

    Returns:
      The files of the answers.

    Raises:
      InputError: if a question has no answer choices.
    """
    for question, _ in questions.values():
        if not question.choices:
            raise InputError(f"question {question.id!r} has no choices to sum over; use combine='vote'")

    def missing(done: Set[tuple[str, int]]) -> tuple[int, Iterator[list[Response]]]:
        ids = context.data_group.share([id_ for id_ in questions if (id_, 0) not in done])
        batch = {id_: questions[id_] for id_ in ids}
        return len(ids), iter_marginal_responses(context, model, batch, rationales, sampling)

    stem = f"{file_stem(set_name)}.responses"
    return write_missing(
        context, missing, folder, stem, list(questions), by_group=True, label="  marginalization", scope=set_name
    )


def iter_marginal_responses(
    context: RunContext,
    model: PromptedModel,
    questions: QuestionsById,
    rationales: RationalesById,
    sampling: Sampling,
) -> Iterator[list[Response]]:
    """Scores every answer after every rationale and yields one batch with the best answer of each question."""
    log_probs: dict[str, list[Mapping[str, ChoiceScore]]] = {id_: [] for id_ in questions}
    for batch in score_choices(context, model, questions, unanswered(model, questions, rationales), sampling):
        for (id_, _), scores in batch:
            log_probs[id_].append(scores)
    rows = []
    for id_, by_rationale in log_probs.items():
        answers = list(by_rationale[0])
        log_p = log_marginal(np.array([[score.log_p for score in by_answer.values()] for by_answer in by_rationale]))
        best = int(log_p.argmax())
        answer = answers[best]
        rows.append(
            Response(
                question_id=id_,
                sample_index=0,
                text=answer,
                rationale=rationales[id_][0],
                answer=answer,
                correct=is_correct(answer, questions[id_][0]),
                finish_reason="stop",
                logprob=round(float(log_p[best]), 4),
                num_tokens=len(model.tokenizer.encode(answer)) + 1,
                model=model.name,
                sampling=f"summed over {len(rationales[id_])} rationales",
            )
        )
    yield rows


def _majority_response(answers: list[Response]) -> Response:
    """The first response with the most frequent answer."""
    winner = majority_vote([row.answer for row in answers])
    first = next(row for row in answers if row.answer == winner)
    return dataclasses.replace(first, sample_index=0, sampling=f"vote over {len(answers)} rationales")
