"""Open-endedness (SCoTD, section 4): questions with more varied responses get more of the budget.

Questions are sorted into fifths by the number of different pairs of consecutive words in all of their responses, and
retain 1, 3, 5, 7 and 9 responses, 5 on average. Other budgets are scaled: `cap` responses on average, at least one per
question. Which responses of a question are retained is not in the paper; here these are the first ones.
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from scotd_jax.rationales.words import words
from scotd_jax.records import Response

SHARES = (1 / 5, 3 / 5, 5 / 5, 7 / 5, 9 / 5)  # of the mean budget, from the least varied fifth to the most varied


def open_ended_caps(varieties: Sequence[int], cap: int) -> list[int]:
    """Returns the cap of each question.

    Args:
      varieties: `variety` of each question.
      cap: mean cap.
    """
    order = np.argsort(varieties, kind="stable")
    fifth = np.empty(len(order), np.int64)
    fifth[order] = np.arange(len(order)) * len(SHARES) // max(1, len(order))
    return [max(1, round(SHARES[i] * cap)) for i in fifth.tolist()]


def variety(responses: Iterable[Response]) -> int:
    """Returns the number of different pairs of consecutive words in the rationales of some responses."""
    texts = (words(row.rationale or row.text) for row in responses)
    return len({pair for tokens in texts for pair in itertools.pairwise(tokens)})
