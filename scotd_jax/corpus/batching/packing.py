"""Laying texts one behind the other into rows of one width: the longest first, each into the first row with room."""

from collections.abc import Sequence

import numpy as np


def first_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Rows of indices into `lengths`, each row's lengths adding up to at most `width`.

    Raises ValueError on a text that is longer than a row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[i] > width:
            raise ValueError(f"a text of {lengths[i]} tokens does not fit into a row of {width}")
        row = next((k for k, left in enumerate(room) if left >= lengths[i]), len(room))
        if row == len(room):
            rows.append([])
            room.append(width)
        rows[row].append(i)
        room[row] -= lengths[i]
    return rows


def rows_needed(lengths: np.ndarray, width: int) -> np.ndarray:
    """int64[n]: len(first_fit(lengths[i], width)) for every line of lengths int[n, m], in which 0 is no text.

    All lines at once, text by text. Lines with a text that is longer than `width` need more rows than there can be.
    """
    n, m = lengths.shape
    lines, needed = np.arange(n), np.zeros(n, np.int64)
    room = np.full((n, max(1, 2 * int(lengths.sum(1).max(initial=0)) // width + 1)), width)  # no two rows half empty
    for length in np.sort(lengths, 1)[:, ::-1].T:
        row = (room >= length[:, None]).argmax(1)  # too long a text counts below
        room[lines, row] -= length
        needed = np.maximum(needed, np.where(length > 0, row + 1, 0))
    return np.where(lengths.max(1, initial=0) > width, m + 1, needed)
