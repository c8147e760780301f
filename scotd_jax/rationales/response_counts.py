"""Counts of a set of responses."""

import collections
from collections.abc import Iterable

from scotd_jax.records import Response


def count_responses(rows: Iterable[Response]) -> dict[str, int | float]:
    """Returns the counts of a set of responses, as its manifest records them.

    Returns:
      `questions`, `responses`, `responses_max` (largest number per question), `correct` and `correct_share`, the
      numbers of responses that are `truncated`, have `no_answer` or `no_rationale`, and `tokens`.
    """
    sums: collections.Counter[str] = collections.Counter()
    questions: collections.Counter[str] = collections.Counter()
    for row in rows:
        questions[row.question_id] += 1
        sums["responses"] += 1
        sums["correct"] += row.correct is True
        sums["truncated"] += row.finish_reason == "length"
        sums["no_answer"] += row.answer is None
        sums["no_rationale"] += not row.has_rationale
        sums["tokens"] += row.num_tokens
    return {
        "questions": len(questions),
        "responses": sums["responses"],
        "responses_max": max(questions.values(), default=0),
        "correct": sums["correct"],
        "correct_share": round(sums["correct"] / max(1, sums["responses"]), 4),
        "truncated": sums["truncated"],
        "no_answer": sums["no_answer"],
        "no_rationale": sums["no_rationale"],
        "tokens": sums["tokens"],
    }
