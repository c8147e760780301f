"""Near-duplicate responses, by the share of word trigrams that two texts have in common."""

from scotd_jax.rationales.words import words

Trigrams = frozenset[tuple[str, ...]]


def near_duplicates(texts: list[str], threshold: float) -> list[bool]:
    """Marks every text that is more similar than `threshold` to an earlier text that is not marked itself."""
    kept: list[Trigrams] = []
    marks = []
    for text in texts:
        own = trigrams(text)
        marks.append(any(similarity(own, other) > threshold for other in kept))
        if not marks[-1]:
            kept.append(own)
    return marks


def trigrams(text: str) -> Trigrams:
    """Returns the word trigrams of a text; a shorter text is one n-gram of all its words."""
    tokens = words(text)
    return frozenset(zip(tokens, tokens[1:], tokens[2:], strict=False)) or frozenset([tuple(tokens)])


def similarity(one: Trigrams, other: Trigrams) -> float:
    """Returns the Jaccard index of two sets of trigrams, from 0 to 1."""
    common = len(one & other)
    return common / (len(one) + len(other) - common)
