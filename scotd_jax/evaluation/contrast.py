"""Contrast consistency on groups of a question and its minimal edits (Gardner et al. 2020, arXiv 2004.02709).

The members of a group have different answers, so a model that answers from a surface cue gets some right and others
wrong. Consistency is the share of groups in which *every* member is right. Groups (`question_groups.contrast_groups`)
are formed over all sets together, because the test questions and their edits may be in different sets.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scotd_jax.errors import InputError
from scotd_jax.evaluation import scoring
from scotd_jax.evaluation.question_groups import contrast_groups, question_clusters
from scotd_jax.records import Question


def describe_unpaired(questions: Sequence[Question]) -> str:
    """Returns a message about the questions that should be in a group but are not; "" if there are none.

    Args:
      questions: questions of all sets. Those with a group, and those of a split whose name contains "contrast", should
        be in a group of two or more members.
    """
    paired = {member.id for members in contrast_groups(questions).values() for member in members}
    alone = [q for q in questions if q.id not in paired and (q.group is not None or "contrast" in q.split)]
    if not alone:
        return ""
    group = alone[0].group
    reason = f"no other member of its group {group!r} is in these sets" if group else "it names no original"
    return f"{len(alone)} questions are in no contrast pair, first {alone[0].id!r}: {reason}"


def contrast_consistency(
    questions: Iterable[Question], right: Mapping[str, float | bool], confidence: float = 0.95
) -> dict[str, Any] | None:
    """Computes contrast consistency as plain JSON values.

    Args:
      questions: questions of all sets.
      right: question id -> whether its response is right (`scoring.outcomes` of all sets together). If it is a share of
        several samples, a group counts with the probability that one random sample of each member is right.
      confidence: confidence level of the intervals.

    Returns:
      None if there is no group of two members; else a dict of
        n: number of groups,
        accuracy, interval: the consistency with its interval,
        confidence: as passed,
        chance: consistency of guessing at random; None for questions without choices,
        some: share of groups with right and wrong members,
        none: share of groups without a right member,
        alone: number of questions that are left out because no other member of their group is in `questions`,
        by_split: split -> n, accuracy and interval of the members.

    Raises:
      InputError: if a member has no response.
    """
    questions = list(questions)
    grouped = contrast_groups(questions)
    if not grouped:
        return None
    members = [q for group in grouped.values() for q in group]
    if missing := next((q.id for q in members if q.id not in right), None):
        raise InputError(f"question {missing!r} of a contrast group has no response; evaluate its set again")
    all_right = consistent_groups(grouped, right)
    all_wrong = [math.prod(1 - float(right[q.id]) for q in group) for group in grouped.values()]
    splits: dict[str, dict[str, float]] = defaultdict(dict)
    for question in members:
        splits[question.split][question.id] = float(right[question.id])
    clusters = question_clusters(members)
    group_clusters = {name: clusters[group[0].id] for name, group in grouped.items()}  # groups may share a passage
    chance = None
    if all(q.choices for q in members):
        guesses = [math.prod(1 / len(q.choices) for q in group) for group in grouped.values()]
        chance = sum(guesses) / len(guesses)
    return {
        **scoring.accuracy_with_interval(all_right, group_clusters, confidence),
        "confidence": confidence,
        "chance": chance,
        "some": 1 - (sum(all_right.values()) + sum(all_wrong)) / len(grouped),
        "none": sum(all_wrong) / len(grouped),
        "alone": sum(q.group is not None for q in questions) - sum(q.group is not None for q in members),
        "by_split": {
            split: scoring.accuracy_with_interval(values, clusters, confidence) for split, values in splits.items()
        },
    }


def consistent_groups(grouped: Mapping[str, Sequence[Question]], right: Mapping[str, float | bool]) -> dict[str, float]:
    """Returns for every contrast group whose members are all in `right` whether they are all right.

    Args:
      grouped: the groups by name (`question_groups.contrast_groups`).
      right: as in `contrast_consistency`.

    Returns:
      Name of the group -> 1.0 or 0.0, or a probability for shares of several samples.
    """
    return {
        name: math.prod(float(right[q.id]) for q in group)
        for name, group in grouped.items()
        if all(q.id in right for q in group)
    }
