"""Decontamination: finds training questions that overlap with evaluation questions.

Two questions overlap if they share a run of `length` consecutive words (13 in the GPT-3 report, arXiv 2005.14165,
appendix C). A question shorter than that overlaps only with questions of exactly the same words. The words are those of
context, text and choices. Runs are compared by 64-bit hashes, so that millions of them fit into memory.
"""

import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from scotd_jax.rationales.words import words
from scotd_jax.records import Question

_BASE = 0x9E3779B97F4A7C15  # odd, hence invertible modulo 2^64, as are its powers
_BATCH = 1000  # questions hashed at once


def contaminated_ids(questions: Iterable[Question], evaluation: Iterable[Question], length: int) -> list[str]:
    """Returns the ids of the training questions that overlap with an evaluation question, in their order.

    Args:
      questions: training questions.
      evaluation: evaluation questions.
      length: length of the shared run, in words.
    """
    evaluation_hashes = [hashes for _, hashes, _ in _hash_runs(evaluation, length)]
    seen = np.unique(np.concatenate([*evaluation_hashes, np.zeros(0, np.uint64)]))
    found = []
    for ids, hashes, owner in _hash_runs(questions, length):
        overlaps = np.zeros(len(ids), bool)
        overlaps[owner[np.isin(hashes, seen)]] = True
        found += [id_ for id_, overlap in zip(ids, overlaps, strict=True) if overlap]
    return found


def question_words(question: Question) -> list[str]:
    """Returns all words of a question; choices that its text already lists are not repeated."""
    texts = [question.context or "", question.text]
    texts += [choice for choice in question.choices if choice not in question.text]
    return words(" ".join(texts))


def _hash_runs(questions: Iterable[Question], length: int) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """Hashes the runs of all questions, batch by batch.

    Yields:
      For each batch the question ids, uint64[K] hashes of their K runs, and int64[K] the index of each run's question.
    """
    questions = iter(questions)
    while batch := list(itertools.islice(questions, _BATCH)):
        texts = [question_words(question) for question in batch]
        yield [question.id for question in batch], *_hash_texts(texts, length)


def _hash_texts(texts: Sequence[Sequence[str]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns polynomial hashes of all runs of `length` words, and the index of each run's text.

    A shorter text is one run of all its words.
    """
    sizes = np.array([len(text) for text in texts])
    begin = np.cumsum(sizes) - sizes
    owner = np.repeat(np.arange(len(texts)), sizes)
    flat = np.fromiter((_hash_word(word) for text in texts for word in text), np.uint64, int(sizes.sum()))
    # The length is hashed as the first word of a run, so that runs of different lengths have different hashes.
    hashes = np.full(len(flat), length, np.uint64)
    position = np.arange(len(flat)) - begin[owner] if len(flat) else owner
    for step in range(length):
        hashes = hashes * np.uint64(_BASE) + np.concatenate([flat[step:], np.zeros(min(step, len(flat)), np.uint64)])
    is_complete = position + length <= sizes[owner]
    short = [i for i, size in enumerate(sizes) if 0 < size < length]
    short_hashes = [_hash_run(flat[begin[i] : begin[i] + sizes[i]]) for i in short]
    return (
        np.concatenate([hashes[is_complete], np.array(short_hashes, np.uint64)]),
        np.concatenate([owner[is_complete], np.array(short, np.int64)]),
    )


def _hash_run(hashes: np.ndarray) -> int:
    """Returns the hash of one run, given the hashes of its words."""
    value = len(hashes)
    for word in hashes.tolist():
        value = (value * _BASE + word) & 0xFFFFFFFFFFFFFFFF
    return value


@functools.lru_cache(maxsize=1 << 20)
def _hash_word(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
