"""Control experiments: replaces the rationales of responses, to measure how much their content matters.

    own         the response's own rationale, unchanged
    truncated   the first half of its words
    shuffled    its words in a random order, keyed by the response
    other       the rationale of the previous question; the first question takes that of the last
    empty       no rationale

Answer, text and all other fields of a response stay as they are.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from scotd_jax.config import RationaleControl
from scotd_jax.errors import InputError
from scotd_jax.keyed_random import random_permutation
from scotd_jax.records import Question, Response

QuestionResponses = tuple[Question, Sequence[Response]]


def apply_control(
    kind: RationaleControl, groups: Iterable[QuestionResponses], before: Sequence[Response] | None = None
) -> Iterator[tuple[Question, list[Response]]]:
    """Replaces the rationales of responses as the control experiment requires.

    For "other", the rationales come from the nearest earlier group that has responses. If it has m of them, response i
    takes the rationale of its response i mod m.

    Args:
      kind: the control.
      groups: questions, each with some responses to it.
      before: for "other", responses that provide the rationales for the first group. If None, the last group provides
        them, and all groups are held in memory.

    Yields:
      The groups in their order.

    Raises:
      InputError: for "other", if there is no other question to take rationales from.
    """
    if kind != "other":
        for question, rows in groups:
            yield question, [_apply(kind, row) for row in rows]
        return
    donors = before
    if donors is None:
        groups = [(question, list(rows)) for question, rows in groups]
        answered = [rows for _, rows in groups if rows]
        if len(answered) == 1:
            raise InputError(
                f"question {answered[0][0].question_id!r} is the only one with a rationale, but "
                "rationale_control='other' takes rationales from another question: use more questions"
            )
        donors = answered[-1] if answered else []
    for question, rows in groups:
        yield question, [_replace(row, donors[i % len(donors)].rationale or "") for i, row in enumerate(rows)]
        donors = rows or donors


def _apply(kind: RationaleControl, row: Response) -> Response:
    if kind == "own" or row.rationale is None:
        return row
    if kind == "empty":
        return _replace(row, "")
    words = row.rationale.split()
    if kind == "truncated":
        return _replace(row, " ".join(words[: len(words) // 2]))
    order = random_permutation(len(words), "shuffled", *row.key)
    return _replace(row, " ".join(words[i] for i in order))


def _replace(row: Response, rationale: str) -> Response:
    return dataclasses.replace(row, rationale=rationale)
