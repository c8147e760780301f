"""Words for comparing texts: lower case, without punctuation."""

import re

_PUNCTUATION = re.compile(r"[^\w\s]|_")


def words(text: str) -> list[str]:
    """Splits a text into words. "It's well-known." has the two words "its" and "wellknown"."""
    return _PUNCTUATION.sub("", text.lower()).split()
