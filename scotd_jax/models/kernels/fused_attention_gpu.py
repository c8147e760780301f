"""The grids of the Triton kernels of fused attention on NVIDIA GPUs, called by fused_attention.py.

The forward kernel passes over the keys of all blocks for a tile of query rows, with a running maximum. It also returns
the logsumexp of every row, from which the backward kernels recompute the weights: one passes over the keys for a tile
of rows, one over the rows for a tile of keys, and one over all questions for a tile of a bias. All responses of a
question read its shared keys, whose derivatives are summed over them in registers. Nothing is added atomically, so that
a repeated update gives the same bits.

A program skips the tiles before the first and after the last that its rows, or its keys, need (`_bounds`): the upper
triangle of causal attention, padding, and neighbors in packed rows. Arrays keep the order in which the projections
compute them, [.., tokens, heads, width], so that nothing is transposed in memory.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Bool, Float, Int

from scotd_jax.models.kernels import triton_kernels
from scotd_jax.models.kernels.kv_block import KVBlock
from scotd_jax.models.kernels.triton_kernels import Tiles

MAX_HEAD_WIDTH = 256
MAX_ROWS = 64  # of a tile: the scores of 64 rows and 64 keys take 32 registers of each thread of four warps
_MAX_TILE_BYTES = 16 * 2**10  # of keys: with larger ones, the tiles of two loop iterations do not fit on the chip
_PARAMS = plgpu.CompilerParams(num_warps=4, num_stages=2)


def supports(query: Float[Array, "B G R H Dh"], blocks: Sequence[KVBlock]) -> bool:
    """Whether the kernels compute this call."""
    del blocks
    return query.shape[-1] <= MAX_HEAD_WIDTH


def forward(
    scale: float, interpret: bool, query: Float[Array, "B G R H Dh"], blocks: Sequence[KVBlock]
) -> tuple[Array, tuple[Array]]:
    """Returns the attention output, like the query, and the logsumexp float32[B, G, H, R] as residual."""
    B, G, R, H, _ = query.shape
    tiles, blocks = _tiles(scale, query, blocks[0]), _int8_masks(blocks)
    rows_spec, numbers_spec = _row_specs(tiles)
    out, logsumexp = pl.pallas_call(
        functools.partial(triton_kernels.forward_kernel, tiles),
        grid=_row_grid(tiles),
        in_specs=[rows_spec, *_block_specs(tiles, blocks)],
        out_specs=[rows_spec, numbers_spec],
        out_shape=[_like(query), jax.ShapeDtypeStruct((B, G, H, R), jnp.float32)],
        interpret=interpret,
        compiler_params=_PARAMS,
        name="attention_forward",
    )(query, blocks, [_bounds(_occupied(tiles, block.mask)) for block in blocks])
    return out, (logsumexp,)


def backward(
    scale: float,
    interpret: bool,
    query: Float[Array, "B G R H Dh"],
    blocks: Sequence[KVBlock],
    out: Float[Array, "B G R H Dh"],
    residuals: tuple[Array],
    d_out: Float[Array, "B G R H Dh"],
) -> tuple[Array, list[KVBlock]]:
    """Returns the derivatives of the query and of every block, in their dtypes."""
    tiles, blocks = _tiles(scale, query, blocks[0]), _int8_masks(blocks)
    # sum over keys of weight * d_weight, which the derivative of the softmax subtracts from every d_weight
    weighted_sum = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1).swapaxes(2, 3)
    rows = query, d_out, *residuals, weighted_sum
    call = functools.partial(pl.pallas_call, interpret=interpret, compiler_params=_PARAMS)
    rows_spec, numbers_spec = _row_specs(tiles)
    occupied = [_occupied(tiles, block.mask) for block in blocks]
    d_query = call(
        functools.partial(triton_kernels.query_kernel, tiles),
        grid=_row_grid(tiles),
        in_specs=[[rows_spec] * 2 + [numbers_spec] * 2, *_block_specs(tiles, blocks)],
        out_specs=rows_spec,
        out_shape=_like(query),
        name="attention_d_query",
    )(list(rows), blocks, list(map(_bounds, occupied)))
    d_blocks = []
    for block, block_occupied in zip(blocks, occupied, strict=True):
        _, N, T, K, _ = block.keys.shape
        keys_spec = pl.BlockSpec((None, None, tiles.rows, None, tiles.lanes), lambda j, k, n, b: (b, n, j, k, 0))
        d_keys, d_values = call(
            functools.partial(triton_kernels.keys_kernel, tiles, T),
            grid=(pl.cdiv(T, tiles.rows), K, N, tiles.shape[0]),
            in_specs=_specs_for_keys(tiles, block, keys_spec),
            out_specs=[keys_spec] * 2,
            out_shape=[_like(block.keys), _like(block.values)],
            name="attention_d_keys",
        )(list(rows), block, _bounds(block_occupied.swapaxes(2, 3)))
        d_bias = None
        if block.bias is not None:
            d_bias = call(
                functools.partial(triton_kernels.bias_kernel, tiles, T),
                grid=(pl.cdiv(T, tiles.rows), pl.cdiv(tiles.shape[2], tiles.rows), tiles.shape[3]),
                in_specs=_specs_for_bias(tiles, block),
                out_specs=_bias_spec(tiles),
                out_shape=_like(block.bias),
                name="attention_d_bias",
            )(list(rows), block)
        d_blocks.append(KVBlock(d_keys, d_values, None, d_bias))
    return d_query, d_blocks


def _tiles(scale: float, query: Array, block: KVBlock) -> Tiles:
    lanes = max(16, pl.next_power_of_2(query.shape[-1]))  # Triton multiplies at least 16 numbers
    rows = min(MAX_ROWS, max(16, _MAX_TILE_BYTES // (lanes * block.keys.dtype.itemsize)))
    return Tiles(query.shape, query.shape[3] // block.keys.shape[3], rows, lanes, scale)


def _like(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _int8_masks(blocks: Sequence[KVBlock]) -> list[KVBlock]:
    return [block._replace(mask=block.mask.astype(jnp.int8)) for block in blocks]


def _row_grid(tiles: Tiles) -> tuple[int, ...]:
    """Tiles of rows, responses, heads, questions. The first is the fastest, so that programs share keys in caches."""
    B, G, R, H, _ = tiles.shape
    return pl.cdiv(R, tiles.rows), G, H, B


def _row_specs(tiles: Tiles) -> tuple[pl.BlockSpec, pl.BlockSpec]:
    """Specs of arrays like the query and of arrays [B, G, H, R], for kernels with the grid `_row_grid`."""
    rows = pl.BlockSpec((None, None, tiles.rows, None, tiles.lanes), lambda i, g, h, b: (b, g, i, h, 0))
    return rows, pl.BlockSpec((None, None, None, tiles.rows), lambda i, g, h, b: (b, g, h, i))


def _block_specs(tiles: Tiles, blocks: Sequence[KVBlock]) -> tuple[list[KVBlock], list[pl.BlockSpec]]:
    """Specs of all keys of every block and of the bounds, for kernels with the grid `_row_grid`."""

    def specs(block: KVBlock) -> tuple[KVBlock, pl.BlockSpec]:
        (_, N, T, _, _), (b_size, g_size, r_size, _) = block.keys.shape, block.mask.shape
        keys = pl.BlockSpec(
            (None, None, T, None, tiles.lanes), lambda i, g, h, b: (b, _at(N, g), 0, jax.lax.div(h, tiles.queries), 0)
        )
        mask = pl.BlockSpec(
            (None, None, tiles.rows if r_size > 1 else 1, T),
            lambda i, g, h, b: (_at(b_size, b), _at(g_size, g), _at(r_size, i), 0),
        )
        bias = None if block.bias is None else pl.BlockSpec((None, tiles.rows, T), lambda i, g, h, b: (h, i, 0))
        bounds = pl.BlockSpec((None, None, None, 2), lambda i, g, h, b: (_at(b_size, b), _at(g_size, g), i, 0))
        return KVBlock(keys, keys, mask, bias), bounds

    pairs = [specs(block) for block in blocks]
    return [block for block, _ in pairs], [bounds for _, bounds in pairs]


def _specs_for_keys(tiles: Tiles, block: KVBlock, keys_spec: pl.BlockSpec) -> list[Any]:
    """Specs for a grid of tiles of keys, key heads, matrices of keys and questions (tile j, head k, matrix n, b)."""
    (_, G, R, _, _), (b_size, g_size, r_size, _) = tiles.shape, block.mask.shape
    responses, heads = G // block.keys.shape[1], tiles.queries  # that share the keys
    rows = pl.BlockSpec((None, responses, R, heads, tiles.lanes), lambda j, k, n, b: (b, n, 0, k, 0))
    numbers = pl.BlockSpec((None, responses, heads, R), lambda j, k, n, b: (b, n, k, 0))
    mask_responses = min(g_size, responses)
    mask = pl.BlockSpec(
        (None, mask_responses, r_size, tiles.rows), lambda j, k, n, b: (_at(b_size, b), _at(g_size, n), 0, j)
    )
    bias = None if block.bias is None else pl.BlockSpec((heads, R, tiles.rows), lambda j, k, n, b: (k, 0, j))
    bounds = pl.BlockSpec((None, mask_responses, None, 2), lambda j, k, n, b: (_at(b_size, b), _at(g_size, n), j, 0))
    return [[rows] * 2 + [numbers] * 2, KVBlock(keys_spec, keys_spec, mask, bias), bounds]


def _specs_for_bias(tiles: Tiles, block: KVBlock) -> list[Any]:
    """Specs for a grid of tiles of keys, tiles of rows, and heads (j, i, h)."""
    (B, G, _, _, _), (b_size, g_size, r_size, _) = tiles.shape, block.mask.shape
    rows = pl.BlockSpec((B, G, tiles.rows, None, tiles.lanes), lambda j, i, h: (0, 0, i, h, 0))
    numbers = pl.BlockSpec((B, G, None, tiles.rows), lambda j, i, h: (0, 0, h, i))
    keys = pl.BlockSpec(
        (B, block.keys.shape[1], tiles.rows, None, tiles.lanes),
        lambda j, i, h: (0, 0, j, jax.lax.div(h, tiles.queries), 0),
    )
    mask = pl.BlockSpec(
        (b_size, g_size, tiles.rows if r_size > 1 else 1, tiles.rows), lambda j, i, h: (0, 0, _at(r_size, i), j)
    )
    return [[rows] * 2 + [numbers] * 2, KVBlock(keys, keys, mask, _bias_spec(tiles))]


def _bias_spec(tiles: Tiles) -> pl.BlockSpec:
    return pl.BlockSpec((None, tiles.rows, tiles.rows), lambda j, i, h: (h, i, j))


def _at(size: int, index: Any) -> Any:
    """An index into an axis that has size 1 where all share one entry."""
    return index if size > 1 else 0


def _occupied(tiles: Tiles, mask: Array) -> Bool[Array, "b g row_tiles key_tiles"]:
    """Returns whether any row of a tile attends to any key of a tile."""
    b, g, r_size, T = mask.shape
    rows, keys = (pl.cdiv(size, tiles.rows) for size in (tiles.shape[2], T))
    padding = [(0, 0), (0, 0), (0, rows * tiles.rows - r_size if r_size > 1 else 0), (0, keys * tiles.rows - T)]
    in_tiles = jnp.pad(mask != 0, padding).reshape(b, g, rows if r_size > 1 else 1, -1, keys, tiles.rows)
    return jnp.broadcast_to(in_tiles.any((3, 5)), (b, g, rows, keys))


def _bounds(occupied: Bool[Array, "b g n m"]) -> Int[Array, "b g n 2"]:
    """Returns the first index along the last axis that is True, and the one after the last."""
    index, size = jnp.arange(occupied.shape[-1]), occupied.shape[-1]
    first, end = jnp.where(occupied, index, size).min(-1), jnp.where(occupied, index + 1, 0).max(-1)
    return jnp.stack([first, end], -1).astype(jnp.int32)
