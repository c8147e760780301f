"""Length and variety of rationales: words, and distinct-n, the share of n-grams that are unique (arXiv 1510.03055)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scotd_jax.records import Response


def describe_rationales(grouped: Mapping[str, Sequence[Response]]) -> dict[str, Any] | None:
    """Computes the length and variety of rationales as plain JSON values.

    Words are separated by white space and compared in lower case. N-grams do not cross the border of two rationales.

    Args:
      grouped: the responses of every question.

    Returns:
      None if no response has a rationale; else a dict of
        n: number of rationales,
        mean_words: mean length in words,
        distinct_1, distinct_2: unique words and pairs of words over all of them; both fall with the amount of text, so
          compare only sets of equal size; None if there are none,
        distinct_1_per_question, distinct_2_per_question: the same among the rationales of one question, mean over
          questions; low values show repetition within a rationale or among the samples.
    """
    by_question = [[_words(r.rationale) for r in rows if r.rationale and r.has_rationale] for rows in grouped.values()]
    by_question = [texts for texts in by_question if texts]
    if not by_question:
        return None
    texts = [words for question_texts in by_question for words in question_texts]
    return {
        "n": len(texts),
        "mean_words": sum(map(len, texts)) / len(texts),
        **{f"distinct_{n}": distinct_n(texts, n) for n in (1, 2)},
        **{f"distinct_{n}_per_question": _mean(distinct_n(group, n) for group in by_question) for n in (1, 2)},
    }


def distinct_n(texts: Iterable[Sequence[str]], n: int) -> float | None:
    """Returns unique n-grams as a share of all n-grams of some texts, each a list of words; None without n-grams."""
    grams = [tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def _words(text: str) -> list[str]:
    return text.lower().split()


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
