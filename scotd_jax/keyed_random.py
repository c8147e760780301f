"""Orders that look random and are functions of names alone.

They sort raw bits of a counter-based generator, which are the same in every version of NumPy.
"""

import hashlib
from typing import Any

import numpy as np


def random_order(size: int, *names: Any) -> np.ndarray:
    """int64[size], a permutation that is a pure function of `names` (their text)."""
    digest = hashlib.blake2b("\x1f".join(str(name) for name in names).encode(), digest_size=16).digest()
    bits = np.random.Philox(key=np.frombuffer(digest, "<u8")).random_raw(size)
    return np.argsort(bits, kind="stable")


def random_key(*names: Any) -> bytes:
    """16 bytes that are a pure function of `names`: sorted by them, a smaller set keeps the order of a larger one."""
    return hashlib.blake2b("\x1f".join(str(name) for name in names).encode(), digest_size=16).digest()
