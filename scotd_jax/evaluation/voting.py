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
from scotd_jax.evaluation.calibration import calibration
from scotd_jax.evaluation.pass_at_k import pass_at_k
from scotd_jax.evaluation.question_groups import question_clusters
from scotd_jax.evaluation.rationale_text import describe_rationales
from scotd_jax.records import Question, Response, fold_spelling


def self_consistency(
    questions: Sequence[Question], responses: Iterable[Response], confidence: float = 0.95
) -> dict[str, Any]:
    """Computes the self-consistency results of one set as plain JSON values.

    Args:
      questions: all questions of the set.
      responses: an equal number K of samples for every question, in any order.
      confidence: confidence level of the intervals.

    Returns:
      A dict of
        n: number of questions,
        accuracy, interval: of the majority vote over all K samples,
        confidence: as passed,
        k: K,
        expected, expected_intervals: str(k) -> maj@k and its interval, for every k up to K,
        pass_at_k, pass_at_k_intervals: str(k) -> pass@k and its interval,
        calibration: `calibration.calibration` of the votes; the confidence is the winner's share of all K samples,
        vote_entropy: mean entropy in bits,
        invalid_rate: share of samples without a vote,
        abstentions: share of questions without any vote, which count as wrong,
        rationales: `rationale_text.describe_rationales` of all samples.

    Raises:
      InputError: like `scoring.group_by_question`.
    """
    grouped = scoring.group_by_question(questions, responses)
    size = len(next(iter(grouped.values())))
    right, clusters = _vote_outcomes(grouped), question_clusters(questions)
    shares, entropies, abstentions, invalid = [], [], 0, 0
    majority: dict[str, Sequence[float]] = {}
    passed: dict[str, Sequence[float]] = {}
    for name, group in grouped.items():
        answers, gold = [r.answer for r in group], _right_answers(group)
        votes = _count_votes(answers)
        entropies.append(vote_entropy(answers))
        abstentions += not votes
        invalid += answers.count(None)
        wrong = [n for a, n in votes.items() if a not in gold]
        num_right = sum(votes[a] for a in gold)
        majority[name] = expected_majority_accuracies(num_right, wrong, size).tolist()
        passed[name] = [pass_at_k(num_right, size, k) for k in range(1, size + 1)]
        shares.append(max(votes.values(), default=0) / size)
    return {
        **scoring.accuracy_with_interval(right, clusters, confidence),
        "confidence": confidence,
        "k": size,
        **_at_every_k("expected", majority, clusters, confidence),
        **_at_every_k("pass_at_k", passed, clusters, confidence),
        "calibration": calibration(shares, list(right.values()), confidence),
        "vote_entropy": float(np.mean(entropies)),
        "invalid_rate": invalid / (size * len(grouped)),
        "abstentions": abstentions / len(grouped),
        "rationales": describe_rationales(grouped),
    }


def _at_every_k(
    key: str, values: Mapping[str, Sequence[float]], clusters: Mapping[str, str], confidence: float
) -> dict[str, Any]:
    """The mean over questions for every k from 1 to K, and its interval, of the K values of every question."""
    columns = zip(*values.values(), strict=True)
    at_k = [dict(zip(values, column, strict=True)) for column in columns]
    scores = [scoring.accuracy_with_interval(outcomes, clusters, confidence) for outcomes in at_k]
    return {
        key: {str(k): score["accuracy"] for k, score in enumerate(scores, 1)},
        f"{key}_intervals": {str(k): score["interval"] for k, score in enumerate(scores, 1)},
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
    return float(abs((shares * np.log2(shares)).sum()))  # all terms are at most 0


def _count_votes(answers: Iterable[str | None]) -> Counter[str]:
    return Counter(fold_spelling(answer) for answer in answers if answer is not None)


def expected_majority_accuracies(right: int, others: Sequence[int], samples: int) -> np.ndarray:
    """Returns maj@k for k = 1 ... samples: the probability that a vote over k samples, drawn at random, is right.

    Args:
      right: number of samples with the right answer.
      others: number of samples of each wrong answer.
      samples: number K of all samples; the remaining ones have no parsable answer.

    Returns:
      float64[K].

    Raises:
      ValueError: if there are more answers than samples.
    """
    if right + sum(others) > samples:
        raise ValueError(f"{samples} samples cannot have {right} right and {list(others)} wrong answers")
    return _expected_majority_accuracies(right, tuple(sorted(others)), samples - right - sum(others))


@functools.lru_cache(maxsize=100_000)
def _expected_majority_accuracies(right: int, others: tuple[int, ...], invalid: int) -> np.ndarray:
    size = right + sum(others) + invalid
    total = np.zeros(size + 1)
    unparsed = np.array([math.comb(invalid, v) for v in range(invalid + 1)], np.float64)
    for r in range(1, right + 1):
        # The right answer has r votes. ways[t, v] is the number of ways to draw v samples with wrong answers such that
        # t of these answers have r votes and all others have fewer.
        ways = np.ones((1, 1))
        for count in others:
            new = np.zeros((len(ways) + (r <= count), ways.shape[1] + min(r, count)))
            for v in range(min(r, count) + 1):
                ties = int(v == r)
                new[ties : ties + len(ways), v : v + ways.shape[1]] += math.comb(count, v) * ways
            ways = new
        drawn = np.convolve((1 / (1 + np.arange(len(ways)))) @ ways, unparsed)
        total[r : r + len(drawn)] += math.comb(right, r) * drawn
    draws = np.array([math.comb(size, k) for k in range(1, size + 1)], np.float64)
    return np.minimum(1.0, total[1:] / draws)
