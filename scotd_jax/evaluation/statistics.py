"""How sure a number is: intervals and tests for accuracies that were measured on finitely many questions.

Two sources of chance are kept apart. *Questions*: another draw of questions would give another accuracy (Wilson
interval, paired bootstrap, McNemar). *Seeds*: another training run would give another model (t interval over runs).
Students are always compared on the same questions, question by question: the unpaired comparison of two
percentages throws away most of what was measured and is not offered here.
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
    """Student A minus student B on the same questions: mean difference, its interval and the p-value of no difference.

    `questions` is the number of distinct questions, `seeds` the number of paired training runs.
    """

    difference: Estimate
    p_value: float
    questions: int
    seeds: int


def wilson_interval(successes: float | int, trials: int, confidence: float = 0.95) -> Estimate:
    """Wilson score interval of a proportion; never leaves [0, 1], sensible at 0 and 1 and for few trials.

    `successes` may be fractional (means over samples or runs). Raises ValueError without trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials is not a proportion")
    z = float(special.ndtri(0.5 + confidence / 2))
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return Estimate(rate, max(0.0, min(rate, float(centre - half))), min(1.0, max(rate, float(centre + half))))


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean of independent runs with Student's t interval. Raises ValueError for fewer than two runs."""
    if len(values) < 2:
        raise ValueError("one run says nothing about how much runs differ")
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)


def accuracy_over_seeds(accuracies: Sequence[float], questions: int, confidence: float = 0.95) -> Estimate:
    """Mean accuracy of one arm's runs, each on `questions` questions.

    The interval spans both the t interval over runs and the Wilson interval of a single run's questions: three runs
    that agree by luck do not make 100 questions more than 100 questions. With one run it is the Wilson interval.
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
    """Percentile bootstrap of a mean of per-question differences.

    Resampling n differences is a multinomial draw over their distinct values, of which there are few, so the cost
    hardly depends on n. Raises ValueError on no differences.
    """
    if not len(differences):
        raise ValueError("no questions to resample")
    values, counts = np.unique(np.asarray(differences, np.float64), return_counts=True)
    rng = np.random.default_rng(seed)
    means = rng.multinomial(len(differences), counts / counts.sum(), size=draws) @ values / len(differences)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(float(np.mean(differences)), float(low), float(high))


def mcnemar_test(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Exact two-sided McNemar test: are the questions that only one of two students got right split evenly?"""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} outcomes cannot be paired")
    only_a = sum(bool(x) and not y for x, y in zip(a, b, strict=True))
    only_b = sum(bool(y) and not x for x, y in zip(a, b, strict=True))
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def sign_flip_test(differences: Sequence[float] | np.ndarray, *, seed: int = 0, draws: int = 100_000) -> float:
    """Two-sided Monte Carlo sign-flip test that per-question differences are symmetric about zero.

    With differences of -1, 0 and 1 it estimates McNemar's test; it also takes differences averaged over runs.
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
    """Holm's step-down adjustment: p-values that may be read side by side, in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, (len(p_values) - rank) * float(p_values[i]))
        adjusted[i] = min(1.0, running)
    return adjusted


def compare_paired(
    a: Sequence[Mapping[str, float]], b: Sequence[Mapping[str, float]], confidence: float = 0.95, *, seed: int = 0
) -> Comparison:
    """Student A against student B: run r of A and run r of B answered the same questions.

    a, b: per run, question id -> 1 right, 0 wrong (or a mean over samples). One run: exact McNemar (sign-flip test if
    outcomes are fractional) and the bootstrap over questions. Several runs: differences are first averaged per question
    id, so that a question asked in every run counts once; the interval spans the bootstrap over questions and the t
    interval over runs. The p-value always speaks of the runs at hand, not of new ones. Raises ValueError where runs or
    questions do not pair up.
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
