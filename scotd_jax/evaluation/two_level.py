"""Variance of a mean over runs and questions, which are both samples: of all training runs, and of all questions.

The estimate is that of Obuchowski and Rockette (1995, "Hypothesis testing of diagnostic accuracy for multiple readers
and multiple tests", Communications in Statistics 24), where runs are readers and questions are cases:

    variance of the mean = (variance between the means of runs) / runs + covariance between the means of two runs

The covariance exists because runs answer the same questions; it is estimated from sums over clusters of questions, and
is 0 for runs without common questions.
"""

from collections.abc import Sequence
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


class RunMeans(NamedTuple):
    """Means of the runs of several arms with the same questions, and how they vary over other questions.

    Attributes:
      means: float64[arms, runs], the mean of every run over its questions.
      covariances: float64[arms, runs, arms, runs], of the means over other clusters of questions.
      num_clusters: number of clusters of questions.
      is_binomial: whether all arms are (`OutcomeTable.is_binomial`).
    """

    means: np.ndarray
    covariances: np.ndarray
    num_clusters: int
    is_binomial: bool

    def combine(self, weights: Sequence[float] | np.ndarray) -> MeanOverRuns:
        """Returns a linear combination of the arms' means, sum of weight x mean.

        The degrees of freedom are those of Satterthwaite (1946), as Hillis (2007) uses them. For a few runs, they are
        too large if most of the variance is between runs: 95 % intervals of three runs then cover only 92 %. The reason
        is that the square of a mean square estimates (1 + 2 / df) times the square of its expectation. Divided by this
        factor, simulated intervals of normal data cover 94.6 to 95.6 % for any share of the variance between runs.
        `benchmarks/statistics.py` simulates whole evaluations.
        """
        means_R = np.asarray(weights) @ self.means
        covariances_RR = np.einsum("a,arbs,b->rs", weights, self.covariances, weights)
        runs, clusters_df = len(means_R), max(1.0, self.num_clusters - 1.0)
        if runs == 1:
            df = np.inf if self.is_binomial else clusters_df
            return MeanOverRuns(float(means_R[0]), float(covariances_RR[0, 0]), df)
        between = float(means_R.var(ddof=1)) / runs
        common = max(0.0, float(covariances_RR.sum() - covariances_RR.trace()) / (runs * (runs - 1)))
        squares = between**2 * (runs + 1) / (runs - 1) ** 2 + common**2 / clusters_df
        df = max(min(runs - 1, clusters_df), (between + common) ** 2 / squares) if squares else clusters_df
        return MeanOverRuns(float(means_R.mean()), between + common, df)


def run_means(arms: Sequence[OutcomeTable]) -> RunMeans:
    """Computes the means of all runs of some arms, which have answered the same questions in equal runs.

    Args:
      arms: tables of equal shape, with NaN at the same places (`outcome_tables.paired_tables`).
    """
    clusters_Q, clusters = arms[0].clusters, arms[0].num_clusters
    values_SQ = np.concatenate([arm.values for arm in arms])  # S: the runs of all arms
    present_SQ = ~np.isnan(values_SQ)
    counts_S = present_SQ.sum(axis=1)
    means_S = np.where(present_SQ, values_SQ, 0.0).sum(axis=1) / counts_S
    size = len(values_SQ)
    index = (np.arange(size)[:, None] * clusters + clusters_Q).ravel()
    deviations_SQ = np.where(present_SQ, values_SQ - means_S[:, None], 0.0)
    sums_SC = np.bincount(index, deviations_SQ.ravel(), size * clusters).reshape(size, clusters)
    has_cluster_SC = np.bincount(index, present_SQ.ravel(), size * clusters).reshape(size, clusters) > 0
    shared_SS = has_cluster_SC.astype(np.float64) @ has_cluster_SC.T
    correction_SS = np.divide(shared_SS, shared_SS - 1, out=np.ones_like(shared_SS), where=shared_SS > 1)
    covariances_SS = correction_SS * (sums_SC @ sums_SC.T) / np.outer(counts_S, counts_S)
    shape = len(arms), size // len(arms)
    is_binomial = all(arm.is_binomial for arm in arms)
    return RunMeans(means_S.reshape(shape), covariances_SS.reshape(*shape, *shape), clusters, is_binomial)


def mean_over_runs(table: OutcomeTable) -> MeanOverRuns:
    """Returns the mean of one arm."""
    return run_means([table]).combine([1.0])
