"""Lets the primary process read arrays that are sharded over all processes, one at a time.

No process ever holds all of them: an array is gathered when NumPy reads it, and freed with the result.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from scotd_jax.distributed.hosts import is_primary
from scotd_jax.distributed.sharding import fetch

_END = -1  # sent in place of the index of an array


@dataclasses.dataclass(frozen=True)
class ShardedArray:
    """An array that the primary process gathers when NumPy reads it, as with `np.asarray`.

    Attributes:
      array: the array.
      index: its index among the arrays that can be read.
    """

    array: jax.Array
    index: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole array."""
        return self.array.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Gathers the array; the other processes are in `readable_on_primary`."""
        _broadcast(self.index)
        return np.array(fetch(self.array), dtype, copy=copy)


@contextlib.contextmanager
def readable_on_primary(tree: Any) -> Iterator[Any]:
    """Yields `tree` with arrays that the primary process can read in any order; all processes must call it.

    The other processes wait until the block of the primary ends, and then receive None.
    """
    leaves, structure = jax.tree.flatten(tree)
    if all(map(_is_local, leaves)):
        yield tree if is_primary() else None
    elif is_primary():
        try:
            yield jax.tree.unflatten(structure, [ShardedArray(leaf, i) for i, leaf in enumerate(leaves)])
        finally:
            _broadcast(_END)
    else:
        while (index := _broadcast(_END)) != _END:
            fetch(leaves[index])
        yield None


def _is_local(array: jax.Array) -> bool:
    """Whether this process has the whole array."""
    return array.is_fully_addressable or array.is_fully_replicated


def _broadcast(index: int) -> int:
    """Returns the index that the primary process passes."""
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(index)))
