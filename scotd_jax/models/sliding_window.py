"""Masks of layers with a sliding window, in which a token attends to itself and to the `window` - 1 tokens before it.

They are the masks of the other layers, restricted to keys whose distance from the query is less than the window.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from scotd_jax.models.api import Cache, Segment
from scotd_jax.models.attention import per_token_mask


def window_own_masks(
    masks: Sequence[Bool[Array, "_ _ _ _"]], positions: Int[Array, "_ _ R"], cache: Cache | None, window: int
) -> list[Bool[Array, "_ _ _ _"]]:
    """Returns the masks of a response's own tokens, restricted to the window.

    Args:
      masks: those of past and recent slots, as from `cache_masks`; without a cache, that of the new tokens.
      positions: positions of the new tokens in their sequences.
      cache: the earlier tokens of the response.
      window: width of the window, in tokens.
    """
    if cache is None:
        key_positions = [positions]
    else:
        recent = positions[..., :1] - cache.index  # position of the first recent slot
        past = recent - cache.length[..., None]
        key_positions = [
            start + jnp.arange(mask.shape[-1])[None, None] for start, mask in zip((past, recent), masks, strict=True)
        ]
    return [
        mask & (positions[..., :, None] - keys[..., None, :] < window)
        for mask, keys in zip(masks, key_positions, strict=True)
    ]


def window_segment_masks(
    segments: Sequence[Segment], positions: Int[Array, "_ _ R"], shape: tuple[int, int], window: int
) -> list[Bool[Array, "_ _ _ _"]]:
    """Returns the masks of shared segments, restricted to the window of every token that attends to them.

    The position of a segment's token is the number of unmasked tokens before it. It depends on the response, which may
    attend to only some of the segments, and in a packed segment to only some of the tokens.

    Args:
      segments: the segments of a context, in order.
      positions: positions of the tokens that attend to them.
      shape: the numbers of questions and of responses to each, (B, G).
      window: width of the window, in tokens.
    """
    masks, before = [], jnp.zeros((1, 1, 1, 1), jnp.int32)  # number of unmasked tokens before the segment
    for segment in segments:
        visible = per_token_mask(segment.mask)
        key_positions = before + jnp.cumsum(visible, -1, dtype=jnp.int32) - 1
        before = before + visible.sum(-1, keepdims=True, dtype=jnp.int32)
        mask = visible & (positions[..., :, None] - key_positions < window)
        if segment.keys[0].shape[0] == 1 and mask.shape[:2] != (1, 1):
            # One matrix of keys for the whole batch: all responses form one group (attention.py).
            mask = jnp.broadcast_to(mask, (*shape, *mask.shape[2:])).reshape(1, -1, *mask.shape[2:])
        masks.append(mask)
    return masks
