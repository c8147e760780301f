"""Variance of a mean over runs and questions, which are both samples: of all training runs, and of all questions.

The estimate is that of Obuchowski and Rockette (1995, "Hypothesis testing of diagnostic accuracy for multiple readers
and multiple tests", Communications in Statistics 24), where runs are readers and questions are cases:

    variance of the mean = (variance between the means of runs) / runs + covariance between the means of two runs

The covariance exists because runs answer the same questions; it is estimated from sums over clusters of questions, and
is 0 for runs without common questions.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from scotd_jax.evaluation.outcome_tables import OutcomeTable


class MeanOverRuns(NamedTuple):
    """A mean with its uncertainty.

    Attributes:
      mean: mean over runs of the mean over questions.
      variance: variance of `mean` over other runs and questions; of one run only over other questions.
      df: degrees of freedom of `variance`; infinite if the variance follows from the mean (binomial outcomes).
    """

    mean: float
    variance: float
    df: float

    def quantile(self, confidence: float) -> float:
        """Returns the two-sided quantile of Student's t distribution, or of the normal one if `df` is infinite."""
        probability = 0.5 + confidence / 2
        return float(special.stdtrit(self.df, probability) if np.isfinite(self.df) else special.ndtri(probability))

    def p_value(self) -> float:
        """Returns the two-sided p-value of a mean of zero (t test). `variance` must be positive."""
        return float(2 * special.stdtr(self.df, -abs(self.mean) / self.variance**0.5))


def mean_over_runs(table: OutcomeTable) -> MeanOverRuns:
    """Computes the mean of a table with its variance and degrees of freedom.

    The degrees of freedom are those of Satterthwaite (1946), as Hillis (2007) uses them. For a few runs, these are too
    large if most of the variance is between runs: 95 % intervals of three runs then cover only 92 %. Dividing by
    the expectation of a squared mean square, (1 + 2 / df) times the square of its expectation, removes this: 94.6 to
    95.3 % (`benchmarks/statistics.py` simulates the coverage).
    """
    present_RQ = ~np.isnan(table.values)
    counts_R = present_RQ.sum(axis=1)
    means_R = np.where(present_RQ, table.values, 0.0).sum(axis=1) / counts_R
    runs, clusters = len(means_R), table.num_clusters
    covariance_RR = _covariance(table, present_RQ, counts_R, means_R)
    if runs == 1:
        df = np.inf if table.is_binomial else max(1, clusters - 1)
        return MeanOverRuns(float(means_R[0]), float(covariance_RR[0, 0]), df)
    between = float(means_R.var(ddof=1)) / runs
    common = max(0.0, float(covariance_RR.sum() - np.trace(covariance_RR)) / (runs * (runs - 1)))
    smallest = max(1, min(runs, clusters) - 1)
    squares = between**2 * (runs + 1) / (runs - 1) ** 2 + common**2 / max(1, clusters - 1)
    df = max(smallest, (between + common) ** 2 / squares) if squares else max(1, clusters - 1)
    return MeanOverRuns(float(means_R.mean()), between + common, df)


def _covariance(table: OutcomeTable, present_RQ: np.ndarray, counts_R: np.ndarray, means_R: np.ndarray) -> np.ndarray:
    """Covariances float64[runs, runs] of the means of runs over other clusters of questions."""
    runs, clusters = len(means_R), table.num_clusters
    index = (np.arange(runs)[:, None] * clusters + table.clusters).ravel()
    deviations = np.where(present_RQ, table.values - means_R[:, None], 0.0)
    sums_RC = np.bincount(index, deviations.ravel(), runs * clusters).reshape(runs, clusters)
    has_cluster_RC = np.bincount(index, present_RQ.ravel(), runs * clusters).reshape(runs, clusters) > 0
    shared_RR = has_cluster_RC.astype(np.float64) @ has_cluster_RC.T
    correction_RR = np.divide(shared_RR, shared_RR - 1, out=np.ones_like(shared_RR), where=shared_RR > 1)
    return correction_RR * (sums_RC @ sums_RC.T) / np.outer(counts_R, counts_R)
