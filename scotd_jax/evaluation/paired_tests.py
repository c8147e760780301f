"""Comparisons of arms on the same questions: the difference of two, and the trend over several ordered ones.

Both are linear combinations of accuracies, sum of weight x accuracy, and are computed alike.

- Interval: Newcombe's hybrid score interval for paired proportions (1998, "Improved confidence intervals for the
  difference between binomial proportions based on paired data", method 10), extended to clusters, runs and more than
  two arms as by Zou and Donner (2008, "Construction of confidence limits about effect measures", MOVER).
- Test of one run: McNemar's mid-p test (Fagerland, Lydersen and Laake 2013) if questions are independent, else a
  sign-flip test over clusters of questions.
- Test of several runs: t test with the variance over runs and questions (`two_level`).
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from scotd_jax.evaluation.intervals import Estimate, effective_questions, wilson_limits
from scotd_jax.evaluation.outcome_tables import OutcomeTable
from scotd_jax.evaluation.two_level import MeanOverRuns, RunMeans, run_means

DRAWS = 100_000  # of the sign-flip test: the smallest p-value is 5e-6


class PairedTest(NamedTuple):
    """An effect measured on the same questions, in fractions.

    Attributes:
      effect: the effect with its interval.
      p_value: p-value of the hypothesis of no effect.
      questions: number of distinct questions.
      runs: number of paired training runs.
    """

    effect: Estimate
    p_value: float
    questions: int
    runs: int


def compare_paired(a: OutcomeTable, b: OutcomeTable, confidence: float = 0.95, draws: int = DRAWS) -> PairedTest:
    """Compares two arms: accuracy of A minus accuracy of B.

    Args:
      a: outcomes of A, one of `outcome_tables.paired_tables`.
      b: outcomes of B, the other one.
      confidence: confidence level of the interval.
      draws: number of draws of the sign-flip test.
    """
    return _test([a, b], [1.0, -1.0], confidence, draws)


def trend_test(arms: Sequence[OutcomeTable], confidence: float = 0.95, draws: int = DRAWS) -> PairedTest:
    """Tests for a linear trend over ordered arms, with the scores 1, 2, ... of Page's trend test (1963).

    Args:
      arms: outcomes of at least two arms in their order, from `outcome_tables.paired_tables`.
      confidence: confidence level of the interval.
      draws: number of draws of the sign-flip test.

    Returns:
      The test of the slope: the mean change of the accuracy per step from one arm to the next.
    """
    scores = np.arange(len(arms)) - (len(arms) - 1) / 2
    return _test(arms, list(scores / (scores**2).sum()), confidence, draws)


def mcnemar_mid_p(only_a: int, only_b: int) -> float:
    """Returns the two-sided mid-p-value of McNemar's test.

    The hypothesis is that questions with one right and one wrong answer are equally often right for A and for B. The
    exact test rejects less often than its level; the mid-p-value counts the observed outcome half, which corrects this.

    Args:
      only_a: number of questions that only A answers right.
      only_b: number of questions that only B answers right.
    """
    total = only_a + only_b
    if only_a == only_b:
        return 1.0
    tail = stats.binom.cdf(min(only_a, only_b), total, 0.5) - stats.binom.pmf(only_a, total, 0.5) / 2
    return float(2 * tail)


def sign_flip_test(sums: np.ndarray, draws: int = DRAWS, seed: int = 0) -> float:
    """Returns the two-sided mid-p-value of a Monte Carlo sign-flip test.

    The hypothesis is that the sums are symmetric about zero. For sums of -1, 0 and 1 this estimates `mcnemar_mid_p`.

    Args:
      sums: float64[clusters], sums of differences over independent clusters.
      draws: number of draws.
      seed: seed of the draws.
    """
    values, counts = np.unique(np.round(np.abs(sums[sums != 0]), 9), return_counts=True)
    if not values.size:
        return 1.0
    # Signs of n equal values are one binomial draw, so the cost hardly depends on the number of clusters.
    flips = np.random.default_rng(seed).binomial(counts, 0.5, size=(draws, len(counts)))
    excess = np.abs((2 * flips - counts) @ values) - abs(sums.sum())
    more, equal = (excess > 1e-6).sum(), (np.abs(excess) <= 1e-6).sum()
    return float((more + (equal + 1) / 2) / (draws + 1))


def _test(arms: Sequence[OutcomeTable], weights: Sequence[float], confidence: float, draws: int) -> PairedTest:
    means = run_means(arms)
    effect = means.combine(weights)
    runs, questions = arms[0].values.shape
    p_value = effect.p_value() if runs > 1 and effect.variance > 1e-12 else _p_value_of_run(arms, weights, draws)
    return PairedTest(_interval(arms, weights, means, effect, confidence), p_value, questions, runs)


def _p_value_of_run(arms: Sequence[OutcomeTable], weights: Sequence[float], draws: int) -> float:
    """The p-value of one run, or of several that agree in everything."""
    values_RQ = np.tensordot(weights, np.stack([arm.values for arm in arms]), 1)
    if list(weights) == [1.0, -1.0] and all(arm.is_binomial for arm in arms):
        return mcnemar_mid_p(int((values_RQ > 0).sum()), int((values_RQ < 0).sum()))
    return sign_flip_test(np.bincount(arms[0].clusters, np.nanmean(values_RQ, axis=0)), draws)


def _interval(
    arms: Sequence[OutcomeTable],
    weights: Sequence[float],
    means: RunMeans,
    effect: MeanOverRuns,
    confidence: float,
) -> Estimate:
    """The interval by MOVER: its half-widths are root sums of squares of the distances of every arm's accuracy from its
    Wilson limits, with the correlations of the arms.
    """
    quantile = effect.quantile(confidence)
    single = [means.combine(row) for row in np.eye(len(arms))]
    limits = [wilson_limits(m.mean, effective_questions(m, arm), quantile) for m, arm in zip(single, arms, strict=True)]
    correlations = _correlations(means, single, arms[0].values.shape[1])
    halves = []
    for side in (-1, 1):
        # Towards the lower limit of the effect, an arm with a positive weight moves towards its own lower limit.
        distances = np.array(
            [
                w * (limit.high - limit.value if w * side > 0 else limit.value - limit.low)
                for w, limit in zip(weights, limits, strict=True)
            ]
        )
        halves.append(float(np.sqrt(max(0.0, distances @ correlations @ distances))))
    bound = sum(abs(w) for w in weights) / 2
    return Estimate(effect.mean, max(-bound, effect.mean - halves[0]), min(bound, effect.mean + halves[1]))


def _correlations(means: RunMeans, single: Sequence[MeanOverRuns], questions: int) -> np.ndarray:
    """Correlations of the arms' accuracies over runs and questions, as float64[arms, arms]."""
    correlations = np.eye(len(single))
    for i, j in itertools.combinations(range(len(single)), 2):
        scale = np.sqrt(single[i].variance * single[j].variance)
        if scale > 1e-12:
            weights = np.zeros(len(single))
            weights[[i, j]] = 1.0, -1.0
            value = (single[i].variance + single[j].variance - means.combine(weights).variance) / (2 * scale)
            # Newcombe's correction: without it, the interval of two arms with equal outcomes would be one point.
            spread = np.prod([m.mean * (1 - m.mean) for m in (single[i], single[j])]) ** 0.5
            value = max(0.0, value - 1 / (2 * questions * spread)) if value > 0 else value
            correlations[i, j] = correlations[j, i] = np.clip(value, -1.0, 1.0)
    return correlations
