"""Texts as the words that comparisons see: lower case, without punctuation."""

import re

_PUNCTUATION = re.compile(r"[^\w\s]|_")


def words(text: str) -> list[str]:
    """The words of a text. "It's well-known." has the two words "its" and "wellknown"."""
    return _PUNCTUATION.sub("", text.lower()).split()
