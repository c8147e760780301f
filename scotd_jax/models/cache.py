"""The own past of responses under way: how a layer reads it, and how rows of different age live in one array.

A step writes the keys of all rows into one slot, the next of the recent ones, whatever the rows' ages are: an update of
a slice, which costs nothing. Every C steps the recent slots of every row are moved to the end of its past. As long as
rows begin at such a moment only, a row's tokens are split into past and recent ones by its own position alone, so
that what is computed for it, to the last bit, does not depend on when it began or on who is beside it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from scotd_jax.models.api import Cache
from scotd_jax.models.attention import OwnPart, causal

Sight = tuple[Array, Array | None]  # mask and bias of an own part, as in attention.OwnPart


class LayerCache(NamedTuple):
    """What one layer sees of a Cache: keys and values [B, G, K, T, Dh], recent ones [B, G, K, C, Dh]."""

    keys: Array
    values: Array
    recent_keys: Array
    recent_values: Array
    index: Array


def of_layer(cache: Cache | None, layer: int | Array) -> LayerCache | None:
    if cache is None:
        return None
    arrays = (cache.keys, cache.values, cache.recent_keys, cache.recent_values)
    return LayerCache(*(array[layer] for array in arrays), cache.index)


def visible(cache: Cache | None, R: int) -> list[Bool[Array, "_ _ _ _"]]:
    """The masks of the own parts for R new tokens."""
    if cache is None:
        return [causal(R, R)]
    past = jnp.arange(cache.keys[0].shape[3])[None, None, None] < cache.length[..., None, None]
    return [past, causal(R, cache.recent_keys[0].shape[3], cache.index)]


def own_parts(
    past: LayerCache | None,
    key: Float[Array, "B G K R Dh"],
    value: Float[Array, "B G K R Dh"],
    sights: Sequence[Sight],
) -> tuple[list[OwnPart], tuple[Array, Array]]:
    """The parts of attention that a response has for itself, and the keys and values to be kept: those of its new
    tokens, or with a past all recent ones."""
    if past is None:
        return [(key, value, *sights[0])], (key, value)
    start = (0, 0, 0, past.index, 0)
    keys = jax.lax.dynamic_update_slice(past.recent_keys, key.astype(past.keys.dtype), start)
    values = jax.lax.dynamic_update_slice(past.recent_values, value.astype(past.values.dtype), start)
    parts = [(past.keys, past.values, *sights[0]), (keys, values, *sights[1])]
    return [part for part in parts if part[0].shape[3]], (keys, values)


def extended(cache: Cache, keys: tuple[Array, ...], values: tuple[Array, ...], R: int) -> Cache:
    """The cache after R tokens whose `own_parts` said to keep these, one of each per layer."""
    return cache._replace(recent_keys=keys, recent_values=values, index=cache.index + R)


def settle(cache: Cache, C: int) -> Cache:
    """Moves the recent tokens of every row to the end of its past, and begins again with none.

    C is the number of recent slots; `length` and T must be multiples of it. What has no room in the past is dropped:
    it belongs to rows that are at their limit. Fewer tokens than C may be moved only if no row goes on.
    """
    block = cache.length // C

    def moved(past: Float[Array, "B G K T Dh"], recent: Float[Array, "B G K C Dh"]) -> Float[Array, "B G K T Dh"]:
        return jax.lax.platform_dependent(past, recent, block, default=_by_choice, cuda=_by_scatter)

    keys, values = (
        jax.tree.map(moved, pasts, recents)
        for pasts, recents in ((cache.keys, cache.recent_keys), (cache.values, cache.recent_values))
    )
    return cache._replace(
        keys=keys, values=values, length=cache.length + cache.index, index=jnp.zeros_like(cache.index)
    )


def _by_choice(past: Array, recent: Array, block: Int[Array, "B G"]) -> Array:
    """One pass over the whole past, in place: `past` must not change its shape on the way, else XLA makes a copy.
    CPUs and TPUs scatter row by row, which takes longer."""
    T, C = past.shape[3], recent.shape[3]
    here = (jnp.arange(T) // C)[None, None] == block[..., None]
    repeated = jnp.broadcast_to(recent[:, :, :, None], (*recent.shape[:3], T // C, *recent.shape[3:]))
    return jnp.where(here[:, :, None, :, None], repeated.reshape(past.shape), past)


def _by_scatter(past: Array, recent: Array, block: Int[Array, "B G"]) -> Array:
    """Touches only what changes."""
    blocks = past.reshape(*past.shape[:3], -1, *recent.shape[3:])
    b, g = jnp.arange(past.shape[0])[:, None], jnp.arange(past.shape[1])[None]
    return blocks.at[b, g, :, block].set(recent, mode="drop", unique_indices=True).reshape(past.shape)
