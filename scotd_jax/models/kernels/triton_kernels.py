"""The bodies of the Triton kernels of fused attention (fused_attention_gpu.py has their grids).

Names ending in `_ref` are references to arrays in memory, [rows or keys, lanes] where nothing else is stated; a load of
a tile gives an array in registers. Scores are multiplied by log2(e), because GPUs compute powers of two.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Bool, Float

from scotd_jax.models.attention import LOWEST
from scotd_jax.models.kernels.kv_block import KVBlock

_LOG2_E = math.log2(math.e)


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Sizes of a call and of the tiles that a program computes at a time.

    Attributes:
      shape: shape of the query, B, G, R, H, Dh.
      queries: number of query heads per key head.
      rows: number of query rows of a tile, and of keys.
      lanes: the width of a head, rounded up to a power of two, as Triton requires.
      scale: multiplies the scores.
    """

    shape: tuple[int, ...]
    queries: int
    rows: int
    lanes: int
    scale: float

    def exist(self, tile: Any, length: int) -> Bool[Array, " rows"]:
        """Which rows or keys of a tile exist: the last tile may extend beyond the array."""
        return tile * self.rows + jnp.arange(self.rows) < length

    def slice(self, tile: Any) -> Any:
        """The rows or keys of a tile."""
        return pl.ds(tile * self.rows, self.rows)

    def load(self, ref: Any, exist: Bool[Array, " rows"]) -> Float[Array, "rows lanes"]:
        """Loads rows or keys of a head; zeros where they do not exist."""
        return plgpu.load(ref, mask=self._mask(exist), other=0)

    def store(self, ref: Any, value: Float[Array, "rows lanes"], exist: Bool[Array, " rows"]) -> None:
        """Stores the rows or keys that exist, in the dtype of the reference."""
        plgpu.store(ref, value.astype(ref.dtype), mask=jnp.broadcast_to(self._mask(exist), value.shape))

    def _mask(self, exist: Bool[Array, " rows"]) -> Bool[Array, "rows _"]:
        has_padding = self.lanes > self.shape[-1]
        return exist[:, None] & (jnp.arange(self.lanes) < self.shape[-1])[None] if has_padding else exist[:, None]

    def scores(
        self,
        query: Float[Array, "rows lanes"],
        keys: Float[Array, "rows lanes"],
        mask_ref: Any,
        bias_ref: Any,
        rows: Bool[Array, " rows"],
        cols: Bool[Array, " rows"],
    ) -> Float[Array, "rows rows"]:
        """Returns the scores times log2(e), -inf where masked.

        Args:
          query: a tile of the query.
          keys: a tile of the keys.
          mask_ref: int8[rows, keys], or [1, keys] where all rows have the same mask.
          bias_ref: float32[rows, keys] or None.
          rows: which rows exist.
          cols: which keys exist.
        """
        scores = self.scale * _LOG2_E * _dot(query, keys, 1, 1)
        exist = rows[:, None] & cols[None]
        if bias_ref is not None:
            scores += _LOG2_E * plgpu.load(bias_ref, mask=exist, other=0)
        mask = plgpu.load(mask_ref, mask=exist if mask_ref.shape[0] > 1 else cols[None], other=0)
        return jnp.where(mask != 0, scores, -jnp.inf)


def forward_kernel(
    tiles: Tiles, query_ref: Any, blocks: Sequence[KVBlock], bounds: Sequence[Any], out_ref: Any, logsumexp_ref: Any
) -> None:
    """Computes a tile of rows: passes over the keys with a running maximum (arXiv 2307.08691, algorithm 1)."""
    rows = tiles.exist(pl.program_id(0), tiles.shape[2])
    query = tiles.load(query_ref, rows)
    carry = jnp.zeros((tiles.rows, tiles.lanes)), jnp.full(tiles.rows, LOWEST), jnp.zeros(tiles.rows)
    for block, bound in zip(blocks, bounds, strict=True):

        def add_keys(j: Any, carry: Any, block: KVBlock = block) -> Any:
            out, max_score, normalizer = carry
            keys, values, mask, bias, cols = _tile_of_keys(tiles, block, j)
            scores = tiles.scores(query, keys, mask, bias, rows, cols)
            new_max = jnp.maximum(max_score, scores.max(-1))
            weight, correction = jnp.exp2(scores - new_max[:, None]), jnp.exp2(max_score - new_max)
            out = out * correction[:, None] + _dot(weight, values, 1, 0)
            return out, new_max, normalizer * correction + weight.sum(-1)

        carry = jax.lax.fori_loop(bound[0], bound[1], add_keys, carry)
    out, max_score, normalizer = carry
    normalizer = jnp.where(normalizer == 0, 1.0, normalizer)
    tiles.store(out_ref, out / normalizer[:, None], rows)
    plgpu.store(logsumexp_ref, max_score + jnp.log2(normalizer), mask=rows)


def query_kernel(
    tiles: Tiles, row_refs: Sequence[Any], blocks: Sequence[KVBlock], bounds: Sequence[Any], d_query_ref: Any
) -> None:
    """Computes the derivative of a tile of the query: passes over the keys. `row_refs` are as in `_load_rows`."""
    rows = tiles.exist(pl.program_id(0), tiles.shape[2])
    query, d_out, logsumexp, weighted_sum = _load_rows(tiles, row_refs, rows)
    d_query = jnp.zeros((tiles.rows, tiles.lanes))
    for block, bound in zip(blocks, bounds, strict=True):

        def add_keys(j: Any, d_query: Array, block: KVBlock = block) -> Array:
            keys, values, mask, bias, cols = _tile_of_keys(tiles, block, j)
            weight = jnp.exp2(tiles.scores(query, keys, mask, bias, rows, cols) - logsumexp)
            d_scores = weight * (_dot(d_out, values, 1, 1) - weighted_sum)
            return d_query + _dot(d_scores, keys, 1, 0)

        d_query = jax.lax.fori_loop(bound[0], bound[1], add_keys, d_query)
    tiles.store(d_query_ref, tiles.scale * d_query, rows)


def keys_kernel(
    tiles: Tiles,
    T: int,
    row_refs: Sequence[Any],
    block: KVBlock,
    bounds_ref: Any,
    d_keys_ref: Any,
    d_values_ref: Any,
) -> None:
    """Computes the derivatives of a tile of keys and values: passes over the rows that attend to them.

    `row_refs` are as in `_load_rows`, with the axes [responses, rows, heads, lanes] or [responses, heads, rows] of all
    responses and query heads that share the keys; the mask is [responses or 1, rows or 1, keys], the bias
    [heads, rows, keys], the bounds [responses or 1, 2].
    """
    cols = tiles.exist(pl.program_id(0), T)
    keys, values = tiles.load(block.keys, cols), tiles.load(block.values, cols)

    def add_rows(g: Any, m: Any) -> Callable[[Any, Any], Any]:
        def add(i: Any, carry: Any) -> Any:
            d_keys, d_values = carry
            rows, at = tiles.exist(i, tiles.shape[2]), tiles.slice(i)
            query_ref, d_out_ref, *numbers = row_refs
            refs = query_ref.at[g, at, m], d_out_ref.at[g, at, m], *(ref.at[g, m, at] for ref in numbers)
            query, d_out, logsumexp, weighted_sum = _load_rows(tiles, refs, rows)
            mask_g, mask_rows = _index(block.mask.shape[0], g), at if block.mask.shape[1] > 1 else slice(None)
            bias = None if block.bias is None else block.bias.at[m, at]
            scores = tiles.scores(query, keys, block.mask.at[mask_g, mask_rows], bias, rows, cols)
            weight = jnp.exp2(scores - logsumexp)
            d_scores = weight * (_dot(d_out, values, 1, 1) - weighted_sum)
            return d_keys + _dot(d_scores, query.astype(keys.dtype), 0, 0), d_values + _dot(
                weight, d_out.astype(values.dtype), 0, 0
            )

        return add

    def add_head(n: Any, carry: Any) -> Any:
        g, m = jax.lax.div(n, tiles.queries), jax.lax.rem(n, tiles.queries)
        bound = _index(bounds_ref.shape[0], g)
        return jax.lax.fori_loop(bounds_ref[bound, 0], bounds_ref[bound, 1], add_rows(g, m), carry)

    zeros = jnp.zeros((tiles.rows, tiles.lanes))
    responses = row_refs[0].shape[0]
    d_keys, d_values = jax.lax.fori_loop(0, responses * tiles.queries, add_head, (zeros, zeros))
    tiles.store(d_keys_ref, tiles.scale * d_keys, cols)
    tiles.store(d_values_ref, d_values, cols)


def bias_kernel(tiles: Tiles, T: int, row_refs: Sequence[Any], block: KVBlock, d_bias_ref: Any) -> None:
    """Computes the derivative of a tile of a bias: sums over all questions and responses.

    `row_refs` are as in `_load_rows`, keys, values and mask have two more axes: [B, G, ...], the last two with G or 1,
    the mask also with B or 1.
    """
    cols, rows = tiles.exist(pl.program_id(0), T), tiles.exist(pl.program_id(1), tiles.shape[2])
    B, G, *_ = tiles.shape

    def add_response(n: Any, d_bias: Array) -> Array:
        b, g = jax.lax.div(n, G), jax.lax.rem(n, G)
        query, d_out, logsumexp, weighted_sum = _load_rows(tiles, [ref.at[b, g] for ref in row_refs], rows)
        own = _index(block.keys.shape[1], g)
        keys, values = tiles.load(block.keys.at[b, own], cols), tiles.load(block.values.at[b, own], cols)
        mask = block.mask.at[_index(block.mask.shape[0], b), _index(block.mask.shape[1], g)]
        weight = jnp.exp2(tiles.scores(query, keys, mask, block.bias, rows, cols) - logsumexp)
        return d_bias + weight * (_dot(d_out, values, 1, 1) - weighted_sum)

    d_bias = jax.lax.fori_loop(0, B * G, add_response, jnp.zeros((tiles.rows, tiles.rows)))
    plgpu.store(d_bias_ref, d_bias, mask=rows[:, None] & cols[None])


def _tile_of_keys(tiles: Tiles, block: KVBlock, j: Any) -> tuple[Array, Array, Any, Any, Array]:
    """Returns tile j of keys and values, references to its mask and bias, and which keys exist."""
    cols, at = tiles.exist(j, block.keys.shape[0]), tiles.slice(j)
    keys, values = tiles.load(block.keys.at[at], cols), tiles.load(block.values.at[at], cols)
    return keys, values, block.mask.at[:, at], None if block.bias is None else block.bias.at[:, at], cols


def _load_rows(tiles: Tiles, refs: Sequence[Any], rows: Bool[Array, " rows"]) -> tuple[Array, Array, Array, Array]:
    """Loads a tile of query, d_out, logsumexp and weighted sum; the last two get an axis of size 1."""
    query_ref, d_out_ref, *numbers = refs
    logsumexp, weighted_sum = (plgpu.load(ref, mask=rows, other=0)[:, None] for ref in numbers)
    return tiles.load(query_ref, rows), tiles.load(d_out_ref, rows), logsumexp, weighted_sum


def _index(size: int, index: Any) -> Any:
    """An index into an axis that has size 1 where all share one entry."""
    return index if size > 1 else jnp.zeros_like(index)  # interpreted loads accept no integers of Python


def _dot(x: Array, y: Array, i: int, j: int) -> Array:
    """Returns the contraction of axis i of x with axis j of y, in the dtype of y, accumulated in float32."""
    return jax.lax.dot_general(x.astype(y.dtype), y, (((i,), (j,)), ((), ())), preferred_element_type=jnp.float32)
