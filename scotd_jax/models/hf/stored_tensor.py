"""A tensor in an open file, in any format."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in an open file.

    Attributes:
      shape: its shape.
      dtype: its dtype, as numpy names it ("bfloat16" too).
      read: reads the slice of an index, or everything if the index is (). The array may be a view of the file, which
        is valid only until the file is closed.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[tuple[slice, ...]], np.ndarray]
