"""Calibration: whether answers given with confidence p are right in a share p of the cases.

The expected calibration error (ECE, Guo et al. 2017, arXiv 1706.04599) is the mean distance of confidence and accuracy
over bins of similar confidence. Bins of equal width can be nearly empty where confidences crowd together; bins of equal
mass cannot. Both are computed. With few answers per bin, the ECE of a perfectly calibrated model is well above zero, so
compare models on the same questions only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from scotd_jax.evaluation.intervals import wilson_interval

BINS = 10


def calibration(
    confidences: Sequence[float | int] | np.ndarray,
    right: Sequence[float | int] | np.ndarray,
    confidence: float = 0.95,
    bins: int = BINS,
) -> dict[str, Any]:
    """Computes reliability tables and calibration errors as plain JSON values.

    Args:
      confidences: confidence of every answer, between 0 and 1.
      right: whether it is right, 0 or 1, in the same order.
      confidence: confidence level of the intervals of the accuracies.
      bins: number of bins.

    Returns:
      A dict of
        n, accuracy: number of answers and share of right ones,
        mean_confidence: their mean confidence; more than the accuracy is overconfidence,
        ece, ece_equal_mass: calibration error with bins of equal width (low, high] and of equal numbers of answers,
        bins, equal_mass_bins: the bins that are not empty, each with low and high (of the bin, or of its answers for
          equal mass), n, confidence (mean), accuracy, interval.

    Raises:
      ValueError: if there are no answers, the numbers differ, or a confidence is not between 0 and 1.
    """
    p, y = np.asarray(confidences, np.float64), np.asarray(right, np.float64)
    if not p.size or p.shape != y.shape or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"expected confidences between 0 and 1, one per answer; found {p.size} and {y.size} values")
    # Without the tolerance, a share of votes such as 3 of 30 could round up into the next bin.
    by_width = np.clip(np.ceil(p * bins - 1e-9).astype(int) - 1, 0, bins - 1)
    # Equal confidences have one mean rank, so they are in one bin and the order of the answers has no influence.
    by_mass = ((stats.rankdata(p) - 0.5) * bins / p.size).astype(int)
    width_bins, mass_bins = (_tabulate(p, y, numbers, confidence) for numbers in (by_width, by_mass))
    edges = np.linspace(0, 1, bins + 1).tolist()
    for row, number in zip(width_bins, np.unique(by_width), strict=True):
        row |= {"low": edges[number], "high": edges[number + 1]}
    return {
        "n": int(p.size),
        "accuracy": float(y.mean()),
        "mean_confidence": float(p.mean()),
        "ece": _calibration_error(width_bins),
        "ece_equal_mass": _calibration_error(mass_bins),
        "bins": width_bins,
        "equal_mass_bins": mass_bins,
    }


def _tabulate(p: np.ndarray, y: np.ndarray, numbers: np.ndarray, confidence: float) -> list[dict[str, Any]]:
    """Describes the bins that are not empty; `low` and `high` are those of their confidences.

    Args:
      p: float64[n], the confidences.
      y: float64[n], 1 for right answers, 0 for others.
      numbers: int[n], the number of every answer's bin.
      confidence: confidence level of the intervals.
    """
    rows = []
    for number in np.unique(numbers):
        inside = numbers == number
        estimate = wilson_interval(float(y[inside].sum()), int(inside.sum()), confidence)
        rows.append(
            {
                "low": float(p[inside].min()),
                "high": float(p[inside].max()),
                "n": int(inside.sum()),
                "confidence": float(p[inside].mean()),
                "accuracy": estimate.value,
                "interval": [estimate.low, estimate.high],
            }
        )
    return rows


def _calibration_error(bins: Sequence[dict[str, Any]]) -> float:
    """Mean distance of confidence and accuracy over the answers."""
    total = sum(b["n"] for b in bins)
    return sum(b["n"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / total
