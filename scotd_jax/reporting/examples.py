"""Selects examples for a report by a hash of question ids, so that nothing is cherry-picked."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from scotd_jax.evaluation.question_groups import contrast_groups
from scotd_jax.records import Question, Response
from scotd_jax.reporting.data import ContrastPair, Example


def pick_examples(
    questions: Sequence[Question], responses: Iterable[Response], arm: str, set_label: str = "", count: int = 12
) -> list[Example]:
    """Returns up to `count` questions with the arm's first response, half of them right and half wrong if possible."""
    by_id = {q.id: q for q in questions}
    shuffled = sorted(
        (r for r in responses if r.question_id in by_id and r.sample_index == 0), key=lambda r: _hash(r.question_id)
    )
    right, wrong = ([r for r in shuffled if bool(r.correct) is outcome] for outcome in (True, False))
    num_right = min(len(right), max(count - count // 2, count - len(wrong)))
    chosen = right[:num_right] + wrong[: count - num_right]
    return [Example(by_id[r.question_id], r, arm, set_label) for r in chosen]


def pick_pairs(
    questions: Iterable[Question], answers: Mapping[str, Mapping[str, Response]], count: int = 4
) -> list[ContrastPair]:
    """Returns up to `count` contrast groups to which every arm has responses.

    Args:
      questions: questions of all sets.
      answers: arm name -> question id -> response.
      count: maximum number of groups.
    """
    found = []
    for _, members in sorted(contrast_groups(questions).items(), key=lambda item: _hash(item[0])):
        if len(found) < count and all(q.id in by_id for by_id in answers.values() for q in members):
            responses = {arm: [by_id[q.id] for q in members] for arm, by_id in answers.items()}
            found.append(ContrastPair(members, responses))
    return found


def _hash(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
