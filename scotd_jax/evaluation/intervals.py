"""Confidence intervals of accuracies over questions and runs.

All are Wilson score intervals. For one run with independent questions it is the usual one. Otherwise the number of
questions is replaced by the effective number, at which independent questions would have the same variance, and the
normal quantile by that of Student's t distribution (Franco, Little, Louis and Slud 2019, "Comparative study of
confidence intervals for proportions in complex sample surveys"). They never leave [0, 1], nor do they collapse if all
outcomes are equal.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from scotd_jax.evaluation.outcome_tables import OutcomeTable
from scotd_jax.evaluation.two_level import MeanOverRuns, mean_over_runs


class Estimate(NamedTuple):
    """A value with its confidence interval, in the unit of the value (fractions for accuracies)."""

    value: float
    low: float
    high: float


def accuracy_interval(table: OutcomeTable, confidence: float = 0.95) -> Estimate:
    """Returns the mean accuracy of an arm's runs with its interval, which covers other questions and other runs.

    The interval of one run covers only other questions, since one run does not show how much runs differ.
    """
    mean = mean_over_runs(table)
    return wilson_limits(mean.mean, effective_questions(mean, table), mean.quantile(confidence))


def effective_questions(mean: MeanOverRuns, table: OutcomeTable) -> float:
    """Returns the number of independent questions that would give `mean` its variance (Kish's effective sample size).

    If the variance is 0, since all outcomes are equal, this is the number of clusters.
    """
    questions = table.values.shape[1]
    if np.isinf(mean.df):  # the outcomes are binomial
        return float(questions)
    binomial = mean.mean * (1 - mean.mean) / max(1, questions - 1)
    if mean.variance <= 1e-12 or binomial <= 1e-12:
        return float(table.num_clusters)
    return questions * binomial / mean.variance


def wilson_interval(successes: float | int, trials: int, confidence: float = 0.95) -> Estimate:
    """Returns the Wilson score interval of a proportion (Wilson 1927).

    Raises:
      ValueError: if there are no trials, or more successes than trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials is not a proportion")
    return wilson_limits(successes / trials, trials, float(special.ndtri(0.5 + confidence / 2)))


def wilson_limits(rate: float, trials: float | int, quantile: float) -> Estimate:
    """Returns the score interval of a proportion in an effective number of trials at a quantile."""
    z = quantile
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return Estimate(rate, max(0.0, min(rate, float(centre - half))), min(1.0, max(rate, float(centre + half))))
