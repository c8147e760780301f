"""Curriculum: questions from easy to hard, by how much the responses of the teacher agree."""

import collections
from collections.abc import Iterable

from scotd_jax.records import Response, fold_spelling


def disagreements(responses: Iterable[Response]) -> dict[str, float]:
    """Returns for each question the share of its responses without the most frequent answer, from 0 (easy) to 1.

    Answers that differ in case and spacing alone are equal. A response without an answer agrees with no other.
    """
    answers: dict[str, list[str | None]] = collections.defaultdict(list)
    for row in responses:
        answers[row.question_id].append(None if row.answer is None else fold_spelling(row.answer))
    votes = {id_: collections.Counter(answer for answer in found if answer) for id_, found in answers.items()}
    return {id_: 1 - max(votes[id_].values(), default=0) / len(found) for id_, found in answers.items()}
