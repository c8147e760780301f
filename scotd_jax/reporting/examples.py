"""Selects the entries of the example browser by a hash of question ids, so that nothing is cherry-picked."""

import collections
import hashlib
import itertools
from collections.abc import Mapping, Sequence

from scotd_jax.evaluation.question_groups import contrast_groups
from scotd_jax.records import Question, Response
from scotd_jax.reporting.data import BrowserEntry

Answers = Mapping[str, Mapping[str, Response]]  # arm -> question id -> response
Votes = Mapping[str, Mapping[str, Mapping[str, int]]]  # arm -> question id -> answer -> votes

ENTRIES = 48  # about 100 kB of the page with eight arms


def pick_entries(
    questions: Mapping[str, Sequence[Question]], answers: Answers, votes: Votes, count: int = ENTRIES
) -> list[BrowserEntry]:
    """Returns up to `count` entries: contrast groups, and questions that are in none.

    Every combination of sets and outcomes of the arms comes in turn, so that rare ones are shown.

    Args:
      questions: set label -> its questions.
      answers: the responses; an entry shows the arms with responses to all its members.
      votes: the votes of arms that have some.
      count: maximum number of entries.
    """
    label_of = {question.id: label for label, members in questions.items() for question in members}
    every = [question for members in questions.values() for question in members]
    groups = list(contrast_groups(every).values())
    grouped = {question.id for group in groups for question in group}
    alone = [[question] for question in every if question.id not in grouped]
    kinds: dict[tuple, list[BrowserEntry]] = collections.defaultdict(list)
    for members in sorted([*groups, *alone], key=lambda members: _hash(members[0].id)):
        entry = _entry(members, label_of, answers, votes)
        if entry.answers:
            kinds[tuple(entry.set_labels), *map(entry.outcome, answers)].append(entry)
    rounds = itertools.zip_longest(*kinds.values())
    return list(itertools.islice((entry for round_ in rounds for entry in round_ if entry is not None), count))


def _entry(members: Sequence[Question], label_of: Mapping[str, str], answers: Answers, votes: Votes) -> BrowserEntry:
    ids = [question.id for question in members]
    return BrowserEntry(
        members,
        [label_of[id_] for id_ in ids],
        {arm: [found[id_] for id_ in ids] for arm, found in answers.items() if all(id_ in found for id_ in ids)},
        {arm: [found.get(id_, {}) for id_ in ids] for arm, found in votes.items()},
    )


def _hash(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
