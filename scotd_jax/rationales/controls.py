"""Rationales that are not the response's own: what is left of an effect with them is not the rationales' doing.

    own         as they are
    shuffled    the words of each rationale in a random order, which is a function of the response's name
    other       the rationales of another question: the one before in the stream; the first takes those of the last
    empty       none

Answer, text and everything else of a response stay its own.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from scotd_jax.config import RationaleControl
from scotd_jax.errors import InputError
from scotd_jax.keyed_random import random_permutation
from scotd_jax.records import Question, Response

Group = tuple[Question, Sequence[Response]]


def apply_control(
    kind: RationaleControl, groups: Iterable[Group], before: Sequence[Response] | None = None
) -> Iterator[tuple[Question, list[Response]]]:
    """The groups (a question and responses to it) in their order, with the rationales that `kind` says.

    For "other", response i of a group takes the rationale of response i of the group before, counted round where that
    has fewer; a group without responses gives and takes nothing. `before` are the responses that the first group
    takes from; None takes those of the last one, for which the groups are held in memory.

    Raises InputError for "other" if there is no other question to take from.
    """
    if kind != "other":
        for question, rows in groups:
            yield question, [_altered(kind, row) for row in rows]
        return
    donors = before
    if donors is None:
        groups = [(question, list(rows)) for question, rows in groups]
        answered = [rows for _, rows in groups if rows]
        if len(answered) == 1:
            raise InputError(
                f"question {answered[0][0].question_id!r} is the only one with a rationale, so rationale='other' has "
                "none to give it: use more questions"
            )
        donors = answered[-1] if answered else []
    for question, rows in groups:
        yield question, [_with(row, donors[i % len(donors)].rationale or "") for i, row in enumerate(rows)]
        donors = rows or donors


def _altered(kind: RationaleControl, row: Response) -> Response:
    if kind == "own" or row.rationale is None:
        return row
    if kind == "empty":
        return _with(row, "")
    words = row.rationale.split()
    order = random_permutation(len(words), "shuffled", *row.key)
    return _with(row, " ".join(words[i] for i in order))


def _with(row: Response, rationale: str) -> Response:
    return dataclasses.replace(row, rationale=rationale)
