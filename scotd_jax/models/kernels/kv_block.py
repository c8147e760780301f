"""A block of keys and values, as the kernels of both platforms receive it."""

from typing import Any, NamedTuple


class KVBlock(NamedTuple):
    """Keys and values of one block: arrays, or in the same order their specs, their references in a kernel, and their
    derivatives (without mask).

    Attributes:
      keys: [B, N, T, K, Dh], with N = 1 where the responses of a question share the block, and G where each has its
        own.
      values: like keys.
      mask: bool[B or 1, G or 1, R or 1, T].
      bias: float32[H, R, T], the same for all questions and responses; or None.
    """

    keys: Any
    values: Any
    mask: Any
    bias: Any
