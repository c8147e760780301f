"""The KV cache of responses during sampling: how layers append to it, and how rows of different length share one array.

A decode step writes the keys of all rows into the same *recent* slot, whatever the length of a row. That is an update
of one slice, which is cheap. Every C steps the recent slots of every row move to the end of its *past*
(`flush_recent`). Rows begin only right after such a move, so the position of a token alone determines whether it is
past or recent. Therefore the results of a row are bit for bit the same whenever it begins and whichever other rows are
in the batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scotd_jax.models.api import Cache
from scotd_jax.models.attention import OwnKV, causal_mask
from scotd_jax.models.packed_masks import packed_positions

MaskAndBias = tuple[Array, Array | None]  # of the response's own keys, as in attention.OwnKV


class LayerCache(NamedTuple):
    """One layer of a `Cache`: keys and values [B, G, K, T, Dh], recent ones [B, G, K, C, Dh]."""

    keys: Array
    values: Array
    recent_keys: Array
    recent_values: Array
    index: Array


def layer_cache(cache: Cache | None, layer: int | Array) -> LayerCache | None:
    """Returns the cache of one layer; None without a cache."""
    if cache is None:
        return None
    return LayerCache(
        keys=cache.keys[layer],
        values=cache.values[layer],
        recent_keys=cache.recent_keys[layer],
        recent_values=cache.recent_values[layer],
        index=cache.index,
    )


def cache_masks(cache: Cache | None, R: int) -> list[Bool[Array, "_ _ _ _"]]:
    """Returns the masks of R new tokens: for past and recent slots; without a cache, one causal mask."""
    if cache is None:
        return [causal_mask(R, R)]
    past = jnp.arange(cache.keys[0].shape[3])[None, None, None] < cache.length[..., None, None]
    return [past, causal_mask(R, cache.recent_keys[0].shape[3], cache.index)]


def token_positions(
    start: Int[Array, "..."], R: int, cache: Cache | None, packed_mask: Bool[Array, "B G R R"] | None
) -> Int[Array, "_ _ R"]:
    """Returns the positions of R new tokens in their sequences.

    Args:
      start: the number of tokens before the response, int32[B], [B, G] or [B, G, R].
      R: the number of new tokens.
      cache: the earlier tokens of the response.
      packed_mask: for packed rows, the attention mask among the tokens of a row (packed_masks.py).
    """
    first = start.reshape(*start.shape, *(1,) * (3 - start.ndim))
    if cache is not None:
        first = first + (cache.length + cache.index)[..., None]
    return first + (jnp.arange(R)[None, None] if packed_mask is None else packed_positions(packed_mask))


def append_to_cache(
    cache: LayerCache | None,
    key: Float[Array, "B G K R Dh"],
    value: Float[Array, "B G K R Dh"],
    masks_and_biases: Sequence[MaskAndBias],
) -> tuple[list[OwnKV], Array, Array]:
    """Adds the keys and values of R new tokens to one layer's cache.

    Args:
      cache: the layer's cache, or None.
      key: keys of the new tokens.
      value: values of the new tokens.
      masks_and_biases: one for the past and one for the recent slots; without a cache, one for the new tokens.

    Returns:
      The response's own keys and values with masks and biases, for `grouped_attention`; then the keys and the values to
      store: those of all recent slots, or without a cache those of the new tokens.
    """
    if cache is None:
        return [(key, value, *masks_and_biases[0])], key, value
    start = (0, 0, 0, cache.index, 0)
    keys = jax.lax.dynamic_update_slice(cache.recent_keys, key.astype(cache.keys.dtype), start)
    values = jax.lax.dynamic_update_slice(cache.recent_values, value.astype(cache.values.dtype), start)
    own = [(cache.keys, cache.values, *masks_and_biases[0]), (keys, values, *masks_and_biases[1])]
    return [kv for kv in own if kv[0].shape[3]], keys, values  # the past may have no slots


def with_recent(cache: Cache, keys_values: tuple[Sequence[Array], Sequence[Array]], R: int) -> Cache:
    """The cache after R more tokens, with the recent keys and values that `append_to_cache` returned for each layer."""
    keys, values = keys_values
    return cache._replace(recent_keys=tuple(keys), recent_values=tuple(values), index=cache.index + R)


def flush_recent(cache: Cache, C: int) -> Cache:
    """Moves the recent tokens of every row to the end of its past and empties the recent slots.

    Tokens that do not fit into the past are dropped: they belong to rows that have reached their limit.

    Args:
      cache: `length` and the number of past slots must be multiples of C. The recent slots may be partly filled only if
        no row continues afterwards.
      C: the number of recent slots.
    """
    block = cache.length // C

    def flush(past: Float[Array, "B G K T Dh"], recent: Float[Array, "B G K C Dh"]) -> Float[Array, "B G K T Dh"]:
        return jax.lax.platform_dependent(past, recent, block, default=_flush_by_select, cuda=_flush_by_scatter)

    keys, values = (
        jax.tree.map(flush, past, recent)
        for past, recent in ((cache.keys, cache.recent_keys), (cache.values, cache.recent_values))
    )
    return cache._replace(
        keys=keys, values=values, length=cache.length + cache.index, index=jnp.zeros_like(cache.index)
    )


def _flush_by_select(past: Array, recent: Array, block: Int[Array, "B G"]) -> Array:
    """Flushes in one pass over the whole past. Faster on CPUs and TPUs, which scatter row by row.

    `past` must not be reshaped, or XLA copies it instead of updating it in place.
    """
    T, C = past.shape[3], recent.shape[3]
    here = (jnp.arange(T) // C)[None, None] == block[..., None]
    repeated = jnp.broadcast_to(recent[:, :, :, None], (*recent.shape[:3], T // C, *recent.shape[3:]))
    return jnp.where(here[:, :, None, :, None], repeated.reshape(past.shape), past)


def _flush_by_scatter(past: Array, recent: Array, block: Int[Array, "B G"]) -> Array:
    """Flushes by writing only the slots that change. Faster on GPUs."""
    blocks = past.reshape(*past.shape[:3], -1, *recent.shape[3:])
    b, g = jnp.arange(past.shape[0])[:, None], jnp.arange(past.shape[1])[None]
    return blocks.at[b, g, :, block].set(recent, mode="drop", unique_indices=True).reshape(past.shape)
