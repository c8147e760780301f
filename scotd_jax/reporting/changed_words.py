"""Marks the words in which two similar texts differ."""

import difflib
import re
from collections.abc import Sequence


def changed_words(text: str, others: Sequence[str]) -> list[tuple[str, bool]]:
    """Splits a text into pieces and marks those that differ from the most similar of the other texts.

    Returns:
      (piece, whether it differs) in order.
    """
    words = re.findall(r"\s+|\w+|[^\w\s]", text)
    matchers = [difflib.SequenceMatcher(None, re.findall(r"\s+|\w+|[^\w\s]", o), words, autojunk=False) for o in others]
    if not matchers:
        return [(text, False)]
    nearest = max(matchers, key=lambda m: m.ratio())
    return [("".join(words[j:k]), tag != "equal") for tag, _, _, j, k in nearest.get_opcodes() if k > j]
