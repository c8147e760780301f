"""Contrast groups: a question and its minimal edits, whose answers differ (Gardner et al. 2020, arXiv 2004.02709).

Whoever answers by a surface cue gets some members of a group right and the others wrong. Consistency is the share of
groups of which *every* member is right. Members are found by `Question.group` in all sets together, so the test
questions and their edits may lie in different sets.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from scotd_jax.errors import InputError
from scotd_jax.evaluation import scoring
from scotd_jax.records import Question


def contrast_groups(questions: Iterable[Question]) -> dict[str, list[Question]]:
    """Groups with two members or more, in order of appearance; questions without a group belong to none."""
    found: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        if question.group is not None:
            found[question.group].append(question)
    return {name: members for name, members in found.items() if len(members) > 1}


def contrast_consistency(
    questions: Iterable[Question], right: Mapping[str, float | bool], confidence: float = 0.95
) -> dict[str, Any] | None:
    """Contrast consistency as plain JSON values; None if there is no group of two.

    right: question id -> right or not (`scoring.outcomes` of all sets together). Where that is a share of several
    samples, groups count with the chance that one sample of each member is right. Returns n groups,
    accuracy (= consistency) with Wilson interval, `chance` (guessing every member; None for open questions), `some`
    (share of groups with right and wrong members) and `none` (no member right), `alone` (questions whose group has no
    other member here: left out) and by_split: split -> n, accuracy, interval of the members. Raises InputError when
    a member was not answered.
    """
    questions = list(questions)
    found = contrast_groups(questions)
    if not found:
        return None
    members = [q for group in found.values() for q in group]
    if missing := next((q.id for q in members if q.id not in right), None):
        raise InputError(f"question {missing!r} of contrast group has no response; evaluate its set again")
    every = [math.prod(float(right[q.id]) for q in group) for group in found.values()]
    no_one = [math.prod(1 - float(right[q.id]) for q in group) for group in found.values()]
    splits: dict[str, list[float]] = defaultdict(list)
    for question in members:
        splits[question.split].append(float(right[question.id]))
    chance = None
    if all(q.choices for q in members):
        guesses = [math.prod(1 / len(q.choices) for q in group) for group in found.values()]
        chance = sum(guesses) / len(guesses)
    return {
        **scoring.accuracy_with_interval(every, confidence),
        "confidence": confidence,
        "chance": chance,
        "some": 1 - (sum(every) + sum(no_one)) / len(found),
        "none": sum(no_one) / len(found),
        "alone": sum(q.group is not None for q in questions) - len(members),
        "by_split": {split: scoring.accuracy_with_interval(values, confidence) for split, values in splits.items()},
    }
