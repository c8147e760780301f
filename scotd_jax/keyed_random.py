"""Permutations and sort keys that look random but are pure functions of their arguments.

They use the raw bits of a counter-based generator and of a hash, which are the same in every version of NumPy.
"""

import hashlib
from typing import Any

import numpy as np


def random_permutation(size: int, *names: Any) -> np.ndarray:
    """A permutation, int64[size], that depends only on `names` (by their string form)."""
    bits = np.random.Philox(key=np.frombuffer(random_sort_key(*names), "<u8")).random_raw(size)
    return np.argsort(bits, kind="stable")


def random_sort_key(*names: Any) -> bytes:
    """16 bytes that depend only on `names` (by their string form).

    Items sorted by such keys keep their relative order when other items are removed.
    """
    return hashlib.blake2b("\x1f".join(str(name) for name in names).encode(), digest_size=16).digest()
