"""Confidence intervals and tests for accuracies measured on finitely many questions.

Two sources of variance are separate. *Questions*: another sample of questions would give another accuracy (Wilson
interval, paired bootstrap, McNemar test). *Seeds*: another training run would give another model (t interval over
runs). Students are always compared question by question on the same questions, because an unpaired comparison of two
percentages would discard most of the information.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special, stats


class Estimate(NamedTuple):
    """A value with its confidence interval, in the unit of the value (fractions for accuracies)."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """Student A minus student B on the same questions.

    Attributes:
      difference: mean difference in accuracy with its interval.
      p_value: p-value of the hypothesis of no difference.
      questions: number of distinct questions.
      seeds: number of paired training runs.
    """

    difference: Estimate
    p_value: float
    questions: int
    seeds: int


def wilson_interval(successes: float | int, trials: int, confidence: float = 0.95) -> Estimate:
    """Returns the Wilson score interval of a proportion, which stays within [0, 1] and is valid for few trials.

    Args:
      successes: number of successes; may be fractional, as a sum of means over samples or runs.
      trials: number of trials, at least 1.
      confidence: confidence level.

    Raises:
      ValueError: if there are no trials, or more successes than trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials is not a proportion")
    z = float(special.ndtri(0.5 + confidence / 2))
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return Estimate(rate, max(0.0, min(rate, float(centre - half))), min(1.0, max(rate, float(centre + half))))


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Returns the mean of independent runs with Student's t interval. Raises ValueError for fewer than two runs."""
    if len(values) < 2:
        raise ValueError("a t interval needs at least two runs")
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)


def accuracy_over_seeds(accuracies: Sequence[float], questions: int, confidence: float = 0.95) -> Estimate:
    """Returns the mean accuracy of one arm's runs, each on `questions` questions.

    The interval covers both the t interval over runs and the Wilson interval of one run's questions, since more runs
    are not more questions. For one run it is the Wilson interval.
    """
    mean = float(np.mean(accuracies))
    over_questions = wilson_interval(mean * questions, questions, confidence)
    if len(accuracies) < 2:
        return over_questions
    over_runs = t_interval(accuracies, confidence)
    return Estimate(
        mean, max(0.0, min(over_questions.low, over_runs.low)), min(1.0, max(over_questions.high, over_runs.high))
    )


def paired_bootstrap(
    differences: Sequence[float] | np.ndarray, confidence: float = 0.95, *, seed: int = 0, draws: int = 10_000
) -> Estimate:
    """Returns the percentile bootstrap interval of the mean of per-question differences.

    Resampling n differences is a multinomial draw over their distinct values. There are few distinct values, so the
    cost hardly depends on n.

    Raises:
      ValueError: if there are no differences.
    """
    if not len(differences):
        raise ValueError("no questions to resample")
    values, counts = np.unique(np.asarray(differences, np.float64), return_counts=True)
    rng = np.random.default_rng(seed)
    means = rng.multinomial(len(differences), counts / counts.sum(), size=draws) @ values / len(differences)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(float(np.mean(differences)), float(low), float(high))


def mcnemar_test(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Returns the p-value of the exact two-sided McNemar test on paired outcomes.

    The hypothesis is that questions with one right and one wrong answer are equally often right for A and for B.

    Raises:
      ValueError: if the numbers of outcomes differ.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} outcomes cannot be paired")
    only_a = sum(bool(x) and not y for x, y in zip(a, b, strict=True))
    only_b = sum(bool(y) and not x for x, y in zip(a, b, strict=True))
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def sign_flip_test(differences: Sequence[float] | np.ndarray, *, seed: int = 0, draws: int = 100_000) -> float:
    """Returns the p-value of a two-sided Monte Carlo sign-flip test of per-question differences.

    The hypothesis is that the differences are symmetric about zero. For differences of -1, 0 and 1 the p-value
    estimates that of the McNemar test; the test also applies to differences averaged over runs.
    """
    nonzero = np.asarray([d for d in differences if d], np.float64)
    if not nonzero.size:
        return 1.0
    observed = abs(nonzero.sum())
    values, counts = np.unique(np.abs(nonzero), return_counts=True)
    flips = np.random.default_rng(seed).binomial(counts, 0.5, size=(draws, len(counts)))
    extreme = np.abs((2 * flips - counts) @ values) >= observed - 1e-9
    return float((1 + extreme.sum()) / (1 + draws))


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted for multiple comparisons by Holm's step-down method, in the order of the input."""
    order = np.argsort(p_values, kind="stable")
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, (len(p_values) - rank) * float(p_values[i]))
        adjusted[i] = min(1.0, running)
    return adjusted


def compare_paired(
    a: Sequence[Mapping[str, float]], b: Sequence[Mapping[str, float]], confidence: float = 0.95, *, seed: int = 0
) -> Comparison:
    """Compares student A with student B on paired runs: run r of A and run r of B have the same questions.

    For one run: the exact McNemar test (the sign-flip test if outcomes are fractional) and the bootstrap over
    questions. For several runs: differences are averaged per question id first, so that a question that is in every run
    counts once; the interval covers the bootstrap over questions and the t interval over runs. The p-value is
    conditional on the given runs.

    Args:
      a: per run, question id -> 1 right, 0 wrong (or a mean over samples).
      b: the same for the other student.
      confidence: confidence level of the interval.
      seed: seed of the bootstrap and the sign-flip test.

    Raises:
      ValueError: if runs or questions cannot be paired.
    """
    if not a or len(a) != len(b) or any(set(x) != set(y) or not x for x, y in zip(a, b, strict=True)):
        raise ValueError("both students need the same, non-empty questions in every run")
    runs = [{q: float(x[q]) - float(y[q]) for q in x} for x, y in zip(a, b, strict=True)]
    ids = sorted(set().union(*runs))
    # Weights make the mean over ids equal to the mean over runs of the mean over questions, also for unequal runs.
    per_id = np.array([sum(r[q] / len(r) for r in runs if q in r) * len(ids) / len(runs) for q in ids])
    difference = paired_bootstrap(np.round(per_id, 12), confidence, seed=seed)
    if len(runs) > 1:
        over_runs = t_interval([float(np.mean(list(r.values()))) for r in runs], confidence)
        difference = Estimate(
            difference.value,
            max(-1.0, min(difference.low, over_runs.low)),
            min(1.0, max(difference.high, over_runs.high)),
        )
    outcomes = [v for run in (*a, *b) for v in run.values()]
    if len(runs) == 1 and all(v in (0, 1) for v in outcomes):
        p_value = mcnemar_test([bool(a[0][q]) for q in ids], [bool(b[0][q]) for q in ids])
    else:
        p_value = sign_flip_test(np.round(per_id, 12), seed=seed)
    return Comparison(difference, p_value, len(ids), len(runs))
