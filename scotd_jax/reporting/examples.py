"""Which questions a report shows: drawn by the hash of their ids, so that nobody picked the pretty ones."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from scotd_jax.evaluation import contrast
from scotd_jax.records import Question, Response
from scotd_jax.reporting.data import ContrastPair, Example


def pick_examples(
    questions: Sequence[Question], responses: Iterable[Response], arm: str, set_label: str = "", count: int = 12
) -> list[Example]:
    """Up to `count` questions with the arm's first response, half right and half wrong as far as there are any."""
    by_id = {q.id: q for q in questions}
    drawn = sorted((r for r in responses if r.question_id in by_id and r.sample_index == 0), key=_draw)
    right, wrong = ([r for r in drawn if bool(r.correct) is side] for side in (True, False))
    few = min(len(right), max(count - count // 2, count - len(wrong)))
    chosen = right[:few] + wrong[: count - few]
    return [Example(by_id[r.question_id], r, arm, set_label) for r in chosen]


def pick_pairs(
    questions: Iterable[Question], answers: Mapping[str, Mapping[str, Response]], count: int = 4
) -> list[ContrastPair]:
    """Up to `count` contrast groups that every arm answered. answers: arm name -> question id -> response."""
    found = []
    for _, members in sorted(contrast.contrast_groups(questions).items(), key=lambda item: _hash(item[0])):
        if len(found) < count and all(q.id in said for said in answers.values() for q in members):
            found.append(ContrastPair(members, {arm: [said[q.id] for q in members] for arm, said in answers.items()}))
    return found


def _draw(response: Response) -> str:
    return _hash(response.question_id)


def _hash(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
