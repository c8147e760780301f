"""Dealing the questions of a window out to batches, and those of a batch to rows, so that all carry the same.

What a batch computes is as large as the fullest of its rows, in prompt tokens and in response tokens. Exact balance is
a hard problem; large ones first, each to the emptiest place, and then exchanges with the fullest place come within a
few hundredths. Whole numbers throughout, so that all processes find the same.
"""

import numpy as np

_FULL = 1 << 20  # what a place carries on average, in every column
_GOOD = _FULL + _FULL // 64  # full enough to stop


def balance_lengths(sizes: np.ndarray, places: int) -> np.ndarray:
    """int64[places, n / places]: which of the n questions lie at which place, ascending.

    `sizes` int[n, D] says in D ways how large a question is; each column's sums are nearly the same at all places.
    Raises ValueError if `places` does not divide n.
    """
    n, D = sizes.shape
    if n % places:
        raise ValueError(f"{n} questions are no multiple of {places} places")
    shares = sizes.astype(np.int64) * places * _FULL // np.maximum(sizes.sum(0, dtype=np.int64), 1)
    if places in (1, n):
        return np.arange(n).reshape(places, -1)
    dealt, load, count = (
        np.zeros((places, n // places), np.int64),
        np.zeros((places, D), np.int64),
        np.zeros(places, int),
    )
    for question in np.argsort(-shares.max(1), kind="stable"):
        after = (load + shares[question]).max(1)
        after[count == n // places] = np.iinfo(np.int64).max
        place = int(after.argmin())
        dealt[place, count[place]] = question
        load[place] += shares[question]
        count[place] += 1
    return np.sort(_exchanged(dealt, shares, load), 1)


def _exchanged(dealt: np.ndarray, shares: np.ndarray, load: np.ndarray) -> np.ndarray:
    """While there is one: makes the exchange of two questions that relieves the fullest place most."""
    for _ in range(8 * len(dealt)):
        full = int(load.max(1).argmax())
        if load[full].max() <= _GOOD:
            break
        gives = shares[dealt[full]][:, None, None] - shares[dealt]  # [own question, place, its question, D]
        here, there = load[full] - gives, load[None, :, None] + gives
        worst = np.maximum(here.max(-1), there.max(-1))
        worst[:, full] = np.iinfo(np.int64).max
        own, place, other = np.unravel_index(worst.argmin(), worst.shape)
        if worst[own, place, other] >= load[full].max():
            break
        load[full] -= gives[own, place, other]
        load[place] += gives[own, place, other]
        dealt[full, own], dealt[place, other] = dealt[place, other], dealt[full, own]
    return dealt
