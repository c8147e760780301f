"""Agreement of annotators: Krippendorff's alpha for nominal values."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Returns Krippendorff's alpha: 1 for perfect agreement, 0 for agreement by chance, negative below chance.

    The nominal form of Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), for any number of annotators
    and with missing values.

    Args:
      units: the values that the annotators gave to each unit, in any order. Units with fewer than two values
        have no effect.

    Returns:
      Alpha; None if no unit has two values, or if all values are equal, since no disagreement was possible.
    """
    counts = [Counter(values) for values in units if len(values) > 1]
    total = sum(counts, Counter())
    expected = _different(total) / max(1, total.total() - 1)
    observed = sum(_different(unit) / (unit.total() - 1) for unit in counts)
    return 1 - observed / expected if expected else None


def _different(counts: Counter) -> int:
    """The number of ordered pairs of different values."""
    return counts.total() ** 2 - sum(count**2 for count in counts.values())
