"""pass@k: the probability that at least one of k samples is right (Chen et al. 2021, arXiv 2107.03374)."""

import math


def pass_at_k(right: int, samples: int, k: int) -> float:
    """Returns the unbiased estimate 1 - C(samples - right, k) / C(samples, k).

    This is the share of all subsets of k of the samples that contain a right one.

    Args:
      right: number of samples that are right.
      samples: number of all samples.
      k: size of the subsets.

    Raises:
      ValueError: unless 1 <= k <= samples and 0 <= right <= samples.
    """
    if not 1 <= k <= samples or not 0 <= right <= samples:
        raise ValueError(f"cannot draw {k} of {samples} samples, {right} of them right")
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)
