"""Self-consistency: majority vote over many samples of a question (SCoTD section 3.1; K = 30 at T = 0.7 in the paper).

Spellings of an answer that differ only in case or spacing vote together, because scoring treats them as equal. Answers
that cannot be parsed have no vote. Ties are broken in favour of the answer sampled first. The accuracy of a vote over
fewer samples (maj@k) is not estimated from the first k samples but computed exactly, as the expectation over all
subsets of k of the K samples in all orders; a tie between t answers counts 1/t.
"""

import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from scotd_jax.evaluation import scoring
from scotd_jax.evaluation.question_groups import question_clusters
from scotd_jax.records import Question, Response, fold_spelling


def self_consistency(
    questions: Sequence[Question], responses: Iterable[Response], ks: Sequence[int] = (), confidence: float = 0.95
) -> dict[str, Any]:
    """Computes the self-consistency results of one set as plain JSON values.

    Args:
      questions: all questions of the set.
      responses: an equal number K of samples for every question, in any order.
      ks: numbers of samples for maj@k; () selects 1, 3, 5, 10, 20, 30, 50, 100 (those up to K) and K.
      confidence: confidence level of the interval.

    Returns:
      A dict of
        n: number of questions,
        accuracy, interval: of the majority vote over all K samples,
        confidence: as passed,
        k: K,
        expected: str(k) -> maj@k,
        vote_entropy: mean entropy in bits,
        invalid_rate: share of samples without a vote,
        abstentions: share of questions without any vote, which count as wrong.

    Raises:
      InputError: like `scoring.group_by_question`.
    """
    grouped = scoring.group_by_question(questions, responses)
    size = len(next(iter(grouped.values())))
    ks = sorted({k for k in (ks or (1, 3, 5, 10, 20, 30, 50, 100, size)) if 1 <= k <= size})
    right = _vote_outcomes(grouped)
    entropies, abstentions, invalid = [], 0, 0
    expected = dict.fromkeys(ks, 0.0)
    for group in grouped.values():
        answers, gold = [r.answer for r in group], _right_answers(group)
        votes = _count_votes(answers)
        entropies.append(vote_entropy(answers))
        abstentions += not votes
        invalid += answers.count(None)
        wrong = [n for a, n in votes.items() if a not in gold]
        for k in ks:
            expected[k] += expected_majority_accuracy(sum(votes[a] for a in gold), wrong, size, k) / len(grouped)
    return {
        **scoring.accuracy_with_interval(right, question_clusters(questions), confidence),
        "confidence": confidence,
        "k": size,
        "expected": {str(k): float(min(1.0, p)) for k, p in expected.items()},
        "vote_entropy": float(np.mean(entropies)),
        "invalid_rate": invalid / (size * len(grouped)),
        "abstentions": abstentions / len(grouped),
    }


def vote_outcomes(questions: Sequence[Question], responses: Iterable[Response]) -> dict[str, float]:
    """Returns 1.0 per question id if the majority vote over its samples is right, else 0.0.

    Raises:
      InputError: like `scoring.group_by_question`.
    """
    return _vote_outcomes(scoring.group_by_question(questions, responses))


def _vote_outcomes(grouped: Mapping[str, Sequence[Response]]) -> dict[str, float]:
    winners = {name: majority_vote([r.answer for r in group]) for name, group in grouped.items()}
    return {
        name: float(winner is not None and fold_spelling(winner) in _right_answers(grouped[name]))
        for name, winner in winners.items()
    }


def _right_answers(group: Sequence[Response]) -> set[str]:
    return {fold_spelling(r.answer) for r in group if r.correct and r.answer is not None}


def majority_vote(answers: Sequence[str | None]) -> str | None:
    """Returns the most frequent answer in its first spelling, with `answers` in sampling order; None without votes."""
    spellings: dict[str, str] = {}
    for answer in answers:
        if answer is not None:
            spellings.setdefault(fold_spelling(answer), answer)
    votes = _count_votes(answers)  # keeps the order of first appearance
    return spellings[max(votes, key=votes.__getitem__)] if votes else None


def vote_entropy(answers: Sequence[str | None]) -> float:
    """Returns the entropy of the votes in bits: 0 if all agree or there are none."""
    counts = np.array(list(_count_votes(answers).values()), np.float64)
    shares = counts / counts.sum() if counts.size else np.ones(1)
    return float(abs(-(shares * np.log2(shares)).sum()))


def _count_votes(answers: Iterable[str | None]) -> Counter[str]:
    return Counter(fold_spelling(answer) for answer in answers if answer is not None)


def expected_majority_accuracy(right: int, others: Sequence[int], samples: int, k: int) -> float:
    """Returns maj@k: the probability that a vote over k of the samples, drawn and ordered at random, is right.

    Args:
      right: number of samples with the right answer.
      others: number of samples of each wrong answer.
      samples: number of all samples; the remaining ones have no parsable answer.
      k: number of samples in the vote.

    Raises:
      ValueError: unless 1 <= k <= samples.
    """
    if not 1 <= k <= samples or right + sum(others) > samples:
        raise ValueError(f"cannot draw {k} of {samples} samples with counts {right}, {list(others)}")
    return _expected_majority_accuracy(right, tuple(sorted(others)), samples - right - sum(others), k)


@functools.lru_cache(maxsize=100_000)
def _expected_majority_accuracy(right: int, others: tuple[int, ...], invalid: int, k: int) -> float:
    total = 0.0
    for r in range(1, min(right, k) + 1):
        # The right answer has r votes. ways[t, v] is the number of ways to draw v samples with wrong answers such that
        # t of these answers have r votes and all others have fewer.
        ways = np.zeros((len(others) + 1, k - r + 1))
        ways[0, 0] = 1.0
        for count in others:
            fewer = [math.comb(count, v) for v in range(min(r, k - r + 1))]
            new = np.stack([np.convolve(row, fewer)[: k - r + 1] for row in ways])
            if r <= min(count, k - r):
                new[1:, r:] += math.comb(count, r) * ways[:-1, : k - r + 1 - r]
            ways = new
        unparsed = np.array([math.comb(invalid, k - r - v) for v in range(k - r + 1)], np.float64)
        total += math.comb(right, r) * float((ways @ unparsed / (1 + np.arange(len(ways)))).sum())
    return total / math.comb(right + sum(others) + invalid, k)
