"""Responses that say nearly the same: measured by the word trigrams that they share."""

from scotd_jax.rationales.words import words

Trigrams = frozenset[tuple[str, ...]]


def trigrams(text: str) -> Trigrams:
    """All runs of three words of a text; of a shorter one, its words as one run."""
    said = words(text)
    return frozenset(zip(said, said[1:], said[2:], strict=False)) or frozenset([tuple(said)])


def similarity(one: Trigrams, other: Trigrams) -> float:
    """Jaccard index: the share of their trigrams that two texts have in common, from 0 to 1."""
    common = len(one & other)
    return common / (len(one) + len(other) - common)


def near_duplicates(texts: list[str], threshold: float) -> list[bool]:
    """For every text whether it is more similar than `threshold` to an earlier one that is not itself marked."""
    kept: list[Trigrams] = []
    marks = []
    for text in texts:
        these = trigrams(text)
        marks.append(any(similarity(these, other) > threshold for other in kept))
        if not marks[-1]:
            kept.append(these)
    return marks
