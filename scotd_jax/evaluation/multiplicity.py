"""Correction of p-values for the number of tests in a family."""

from collections.abc import Sequence

import numpy as np


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted for multiple tests by Holm's step-down method (1979), in the order of the input."""
    order = np.argsort(p_values, kind="stable")
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, (len(p_values) - rank) * float(p_values[i]))
        adjusted[i] = min(1.0, running)
    return adjusted
