"""Training questions that a student would meet again when it is evaluated.

Two questions overlap if they share `length` words in a row (GPT-3's report, arXiv 2005.14165, appendix C, used 13);
one that is shorter than that overlaps with those of equal words only. The words are those of context, text and
choices. Runs of words are compared by 64-bit hashes, so millions of them fit into memory.
"""

import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from scotd_jax.rationales.words import words
from scotd_jax.records import Question

_BASE = 0x9E3779B97F4A7C15  # odd, so that no power of it loses a bit
_BATCH = 1000  # questions that are hashed in one go


def contaminated_ids(questions: Iterable[Question], evaluation: Iterable[Question], length: int) -> list[str]:
    """The ids of those `questions` that overlap with one of `evaluation`, in their order. `length` is in words."""
    known = [hashes for _, hashes, _ in _hashed(evaluation, length)]
    seen = np.unique(np.concatenate([*known, np.zeros(0, np.uint64)]))
    found = []
    for ids, hashes, owner in _hashed(questions, length):
        hit = np.zeros(len(ids), bool)
        hit[owner[np.isin(hashes, seen)]] = True
        found += [id_ for id_, yes in zip(ids, hit, strict=True) if yes]
    return found


def question_words(question: Question) -> list[str]:
    """All words of a question; choices that its text already lists are not taken twice."""
    parts = [question.context or "", question.text]
    parts += [choice for choice in question.choices if choice not in question.text]
    return words(" ".join(parts))


def _hashed(questions: Iterable[Question], length: int) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """Batches of (ids, uint64[K] hashes of all runs of words, int64[K] the question that each comes from)."""
    questions = iter(questions)
    while batch := list(itertools.islice(questions, _BATCH)):
        texts = [question_words(question) for question in batch]
        yield [question.id for question in batch], *_runs(texts, length)


def _runs(texts: Sequence[Sequence[str]], length: int) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.array([len(text) for text in texts])
    begin = np.cumsum(sizes) - sizes
    owner = np.repeat(np.arange(len(texts)), sizes)
    flat = np.fromiter((_word(word) for text in texts for word in text), np.uint64, int(sizes.sum()))
    # A run of several lengths is told apart by its length, which is its first "word".
    rolled = np.full(len(flat), length, np.uint64)
    place = np.arange(len(flat)) - begin[owner] if len(flat) else owner
    for step in range(length):
        rolled = rolled * np.uint64(_BASE) + np.concatenate([flat[step:], np.zeros(min(step, len(flat)), np.uint64)])
    whole = place + length <= sizes[owner]
    short = [i for i, size in enumerate(sizes) if 0 < size < length]
    shorts = [_of_one(flat[begin[i] : begin[i] + sizes[i]]) for i in short]
    return (
        np.concatenate([rolled[whole], np.array(shorts, np.uint64)]),
        np.concatenate([owner[whole], np.array(short, np.int64)]),
    )


def _of_one(hashes: np.ndarray) -> int:
    """The hash of one run of any length."""
    value = len(hashes)
    for word in hashes.tolist():
        value = (value * _BASE + word) & 0xFFFFFFFFFFFFFFFF
    return value


@functools.lru_cache(maxsize=1 << 20)
def _word(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
