"""Length balancing: distributes questions over groups of equal size with nearly equal numbers of tokens.

It balances the batches of a window and the rows of a packed batch. All rows of a batch are padded to the fullest one,
in prompt tokens and in response tokens. Exact balance is NP-hard; longest-first assignment followed by pairwise
exchanges comes within a few percent. All arithmetic is in integers, so that all processes get the same result.
"""

import numpy as np

_MEAN_LOAD = 1 << 20  # mean load of a group in every column, after scaling
_BALANCED = _MEAN_LOAD + _MEAN_LOAD // 64  # exchanges stop when the fullest group is within 1/64 of the mean


def balance_lengths(lengths: np.ndarray, num_groups: int) -> np.ndarray:
    """Assigns questions to groups of equal size with nearly equal sums in every column.

    Args:
      lengths: int[n, D], D sizes of each question, such as its prompt tokens and its response tokens.
      num_groups: number of groups; it divides n.

    Returns:
      int64[num_groups, n / num_groups]: the questions of each group, ascending.

    Raises:
      ValueError: if `num_groups` does not divide n.
    """
    n = len(lengths)
    if n % num_groups:
        raise ValueError(f"{n} questions cannot be divided into {num_groups} equal groups")
    if num_groups in (1, n):
        return np.arange(n).reshape(num_groups, -1)
    totals = np.maximum(lengths.sum(0, dtype=np.int64), 1)
    scaled = lengths.astype(np.int64) * num_groups * _MEAN_LOAD // totals
    groups, load = _assign_longest_first(scaled, num_groups)
    return np.sort(_exchange(groups, scaled, load), 1)


def _assign_longest_first(scaled: np.ndarray, num_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Assigns questions, longest first, to the group that is least full afterwards. Returns groups and their loads."""
    n, D = scaled.shape
    capacity = n // num_groups
    groups = np.zeros((num_groups, capacity), np.int64)
    load = np.zeros((num_groups, D), np.int64)
    count = np.zeros(num_groups, int)
    for question in np.argsort(-scaled.max(1), kind="stable"):
        after = (load + scaled[question]).max(1)
        after[count == capacity] = np.iinfo(np.int64).max
        group = int(after.argmin())
        groups[group, count[group]] = question
        load[group] += scaled[question]
        count[group] += 1
    return groups, load


def _exchange(groups: np.ndarray, scaled: np.ndarray, load: np.ndarray) -> np.ndarray:
    """Repeatedly exchanges the two questions whose exchange lowers the load of the fullest group most.

    Returns the groups.
    """
    for _ in range(8 * len(groups)):
        fullest = int(load.max(1).argmax())
        if load[fullest].max() <= _BALANCED:
            break
        change = scaled[groups[fullest]][:, None, None] - scaled[groups]  # [own question, group, its question, D]
        own_load, other_load = load[fullest] - change, load[None, :, None] + change
        worst = np.maximum(own_load.max(-1), other_load.max(-1))
        worst[:, fullest] = np.iinfo(np.int64).max
        own, group, other = np.unravel_index(worst.argmin(), worst.shape)
        if worst[own, group, other] >= load[fullest].max():
            break
        load[fullest] -= change[own, group, other]
        load[group] += change[own, group, other]
        groups[fullest, own], groups[group, other] = groups[group, other], groups[fullest, own]
    return groups
