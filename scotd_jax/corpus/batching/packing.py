"""First-fit-decreasing packing: texts are laid one after another into rows of one width, the longest first."""

from collections.abc import Sequence

import numpy as np


def first_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Packs texts into rows, each text into the first row that has room.

    Args:
      lengths: tokens of each text.
      width: tokens of a row.

    Returns:
      For each row the indices of its texts.

    Raises:
      ValueError: if a text is longer than a row.
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
    """Counts the rows of many packings at once.

    Args:
      lengths: int[n, m], the tokens of up to m texts in each of n packings; 0 stands for no text.
      width: tokens of a row.

    Returns:
      int64[n]: `len(first_fit(lengths[i], width))`, or m + 1 where a text is longer than `width`.
    """
    n, m = lengths.shape
    lines, needed = np.arange(n), np.zeros(n, np.int64)
    # First fit never leaves two rows half empty, so twice the tokens bound the number of rows.
    room = np.full((n, max(1, 2 * int(lengths.sum(1).max(initial=0)) // width + 1)), width)
    for length in np.sort(lengths, 1)[:, ::-1].T:
        row = (room >= length[:, None]).argmax(1)  # row 0 if the text is too long, which the last line corrects
        room[lines, row] -= length
        needed = np.maximum(needed, np.where(length > 0, row + 1, 0))
    return np.where(lengths.max(1, initial=0) > width, m + 1, needed)
