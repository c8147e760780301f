"""Contrast pairs of row-based tasks: a question and its minimal edit, which has another answer (arXiv 2004.02709).

The group of a pair is the id of its original question. Rows of edits have the task's own row format and name the
original in a further column `original_id` ("SPLIT/ID"). Datasets whose official files are aligned (`Dataset.edits`)
need no such column: row k of the edits belongs to row k of the originals, which is checked by the answers and by the
words of both.
"""

import collections
import re
from collections.abc import Sequence
from typing import Any

from scotd_jax.errors import InputError
from scotd_jax.records import Question

COLUMN = "original_id"
# Minimum of `shared_words` for an aligned pair. In the IMDb contrast set it is at least 0.52 for each of the 588 pairs
# (median 0.87), and at most 0.44 for an edit and the original of another pair.
MIN_SHARED_WORDS = 0.45
_ADVICE = f"the files are not aligned row by row: align them, or name the original of every edit in a column {COLUMN}"


def named_original(value: Any, where: str, task: str) -> str | None:
    """Returns the id of the original that a row names; None if it names none.

    Args:
      value: the row's field `original_id`.
      where: file and row, for messages.
      task: name of the task.

    Raises:
      InputError: if the value has another form.
    """
    if value in (None, ""):
        return None
    if not isinstance(value, str) or not all(value.partition("/")):
        raise InputError(f"{where}: {COLUMN} {value!r:.60}: expected SPLIT/ID of the original, such as 'test/17'")
    return f"{task}/{value}"


def aligned_original(originals: Sequence[Question], number: int, edit: Question, where: str) -> Question:
    """Returns the original of row `number` of an aligned file of edits.

    Raises:
      InputError: if there is no such original, its answer is the same, or the two texts share too few words.
    """
    if number >= len(originals):
        raise InputError(f"{where}: there are only {len(originals)} originals; {_ADVICE}")
    original = originals[number]
    if original.answer is not None and original.answer == edit.answer:
        raise InputError(f"{where}: the answer is {edit.answer!r} as for the original {original.id!r}; {_ADVICE}")
    share = shared_words(original.text, edit.text)
    if share < MIN_SHARED_WORDS:
        raise InputError(
            f"{where}: shares {share:.0%} of its words with the original {original.id!r}, expected at least "
            f"{MIN_SHARED_WORDS:.0%}; {_ADVICE}"
        )
    return original


def shared_words(one: str, other: str) -> float:
    """Returns how many words two texts share, with repetitions, relative to the number of words of the longer text."""
    first, second = (collections.Counter(re.findall(r"[^\W_]+", text.casefold())) for text in (one, other))
    return (first & second).total() / max(1, first.total(), second.total())
