"""The two Pallas kernels of fused attention on TPUs, called by fused_attention.py.

Each grid step holds some query rows of one response in VMEM, together with all keys of all blocks that the rows attend
to. So it computes the softmax of a row without a running maximum, and only results leave the core. The backward kernel
recomputes the weights in the same way and needs no residuals of the forward kernel. Derivatives of keys and values
accumulate in VMEM over all rows that attend to them (for shared keys over all responses of a question) and are written
once.

Heads are side by side in the last axis, as the projections compute them, and a grid step processes whole columns of
128 lanes: two heads of width 64, or one of 128. With grouped queries it processes all query heads of its key heads,
which share one copy of keys and mask.

Axes besides those of attention.py: N is 1 for a shared block and G for an own one; C = K * Dh and Q = H * Dh are the
lanes of all key and query heads.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from scotd_jax.layout import round_up
from scotd_jax.models.attention import LOWEST
from scotd_jax.models.kernels.kv_block import KVBlock

LANES = 128
MAX_KEYS = 4096  # of all blocks together: more do not fit into VMEM
_ROW_MULTIPLE = 32  # blocks of query rows are multiples of this, which suits every dtype used here
MAX_SCORES = 2**18  # scores of one head in VMEM at a time
_VMEM_BYTES = 64 * 2**20  # of the 128 MiB of a core


class MergedBlock(NamedTuple):
    """Keys and values of one block, heads side by side. `mask` is 0 on masked keys. T is a multiple of LANES."""

    keys: Float[Array, "B N T C"]
    values: Float[Array, "B N T C"]
    mask: Int[Array, "B_or_1 G_or_1 R_or_1 T"]


@dataclasses.dataclass(frozen=True)
class HeadLayout:
    """The heads of an array.

    Attributes:
      keys: number of key heads.
      queries: number of query heads per key head.
      width: lanes per head.
    """

    keys: int
    queries: int
    width: int

    @property
    def block(self) -> "HeadLayout":
        """The heads of one grid step: the fewest that fill whole columns of lanes, or all."""
        fewest = math.lcm(self.width, LANES) // self.width
        return dataclasses.replace(self, keys=self.keys if self.keys % fewest else fewest)

    @property
    def lanes(self) -> list[tuple[slice, slice]]:
        """The lanes of every query head and those of its key head."""
        heads = [(i, i // self.queries) for i in range(self.keys * self.queries)]
        return [
            (slice(i * self.width, (i + 1) * self.width), slice(j * self.width, (j + 1) * self.width)) for i, j in heads
        ]


class KernelBlocks:
    """The grid of a kernel, and the block of every array that one grid step processes.

    The grid runs over questions, blocks of heads, responses and blocks of rows; the last axis is the fastest.

    Attributes:
      width: lanes per head.
      keys: number of keys of all blocks, padding included.
      rows: query rows of one grid step.
      grid: numbers of questions, blocks of heads, responses and blocks of rows.
      lanes: lanes of the key heads of one grid step.
      query: spec of the query, and of arrays like it.
      kv_blocks: specs of keys, values and mask of every block.
    """

    def __init__(self, heads: HeadLayout, query: Float[Array, "B G R Q"], kv_blocks: Sequence[MergedBlock]):
        B, G, R, _ = query.shape
        self.width, self.keys = heads.width, sum(kv.keys.shape[2] for kv in kv_blocks)
        max_rows = max(_ROW_MULTIPLE, MAX_SCORES // self.keys // _ROW_MULTIPLE * _ROW_MULTIPLE)
        # The fewest blocks of at most `max_rows` rows, all of about the same size.
        self.rows = round_up(-(-R // -(-R // max_rows)), _ROW_MULTIPLE)
        self.grid = (B, heads.keys // heads.block.keys, G, -(-R // self.rows))
        self.lanes = heads.block.keys * heads.width
        block = (None, None, self.rows, heads.queries * self.lanes)
        self.query = pl.BlockSpec(block, lambda b, j, g, i: (b, g, i, j))
        self.kv_blocks = [
            spec for kv in kv_blocks for spec in (self._keys_spec(kv), self._keys_spec(kv), self._mask_spec(kv))
        ]

    def _keys_spec(self, kv: MergedBlock) -> pl.BlockSpec:
        _, N, T, _ = kv.keys.shape
        return pl.BlockSpec((None, None, T, self.lanes), lambda b, j, g, i: (b, g if N > 1 else 0, 0, j))

    def _mask_spec(self, kv: MergedBlock) -> pl.BlockSpec:
        b_size, g_size, r_size, T = kv.mask.shape

        def index(b, j, g, i):
            return b if b_size > 1 else 0, g if g_size > 1 else 0, i if r_size > 1 else 0, 0

        return pl.BlockSpec((None, None, self.rows if r_size > 1 else 1, T), index)

    def mask_bytes(self, kv: MergedBlock) -> int:
        """Returns how many bytes of a mask are read; a block is read again unless the previous grid step used it."""
        (B, J, G, blocks), (b_size, g_size, r_size, T) = self.grid, kv.mask.shape
        if r_size > 1 and blocks > 1:
            times = B * J * G * blocks
        else:
            times = B * J * G if g_size > 1 else b_size
        return times * (self.rows if r_size > 1 else 1) * T * kv.mask.dtype.itemsize


def supports(query: Float[Array, "B G R H Dh"], blocks: Sequence[KVBlock]) -> bool:
    """Whether the kernels compute this call: not with a bias, and not with more keys than fit into VMEM."""
    del query
    keys = sum(round_up(block.keys.shape[2], LANES) for block in blocks)
    return keys <= MAX_KEYS and all(block.bias is None for block in blocks)


def forward(
    scale: float, interpret: bool, query: Float[Array, "B G R H Dh"], blocks: Sequence[KVBlock]
) -> tuple[Array, tuple[()]]:
    """Returns the attention output, with shape and dtype of the query, and no residuals."""
    heads = _heads(query, blocks)
    out = _forward(heads, scale, interpret, _lanes(query), [_merged_block(block) for block in blocks])
    return out.reshape(query.shape), ()


def backward(
    scale: float,
    interpret: bool,
    query: Float[Array, "B G R H Dh"],
    blocks: Sequence[KVBlock],
    out: Float[Array, "B G R H Dh"],
    residuals: tuple[()],
    d_out: Float[Array, "B G R H Dh"],
) -> tuple[Array, list[KVBlock]]:
    """Returns the derivatives of the query and of every block, in their dtypes."""
    del out, residuals
    merged_blocks = [_merged_block(block) for block in blocks]
    d_query, *rest = _backward(_heads(query, blocks), scale, interpret, _lanes(query), merged_blocks, _lanes(d_out))
    d_keys, d_values = (
        [x[:, :, : block.keys.shape[2]].reshape(block.keys.shape) for x, block in zip(xs, blocks, strict=True)]
        for xs in (rest[::2], rest[1::2])
    )
    pairs = zip(d_keys, d_values, strict=True)
    return d_query.reshape(query.shape), [KVBlock(keys, values, None, None) for keys, values in pairs]


def _heads(query: Array, blocks: Sequence[KVBlock]) -> HeadLayout:
    (*_, H, Dh), K = query.shape, blocks[0].keys.shape[3]
    return HeadLayout(K, H // K, Dh)


def _lanes(x: Array) -> Array:
    """Merges the axes of heads and of their width."""
    return x.reshape(*x.shape[:-2], -1)


def _merged_block(block: KVBlock) -> MergedBlock:
    """Pads the keys to a multiple of LANES. Masks become int8, or int32 if they have one row: faster to read."""
    padding = -block.mask.shape[3] % LANES
    keys, values = (jnp.pad(_lanes(x), ((0, 0), (0, 0), (0, padding), (0, 0))) for x in block[:2])
    mask = jnp.pad(block.mask, ((0, 0), (0, 0), (0, 0), (0, padding)))
    return MergedBlock(keys, values, mask.astype(jnp.int8 if mask.shape[2] > 1 else jnp.int32))


def _forward(
    heads: HeadLayout, scale: float, interpret: bool, query: Float[Array, "B G R Q"], kv_blocks: Sequence[MergedBlock]
) -> Array:
    blocks = KernelBlocks(heads, query, kv_blocks)
    return pl.pallas_call(
        functools.partial(_forward_kernel, heads.block.lanes, scale),
        grid=blocks.grid,
        in_specs=[blocks.query, *blocks.kv_blocks],
        out_specs=blocks.query,
        out_shape=jax.ShapeDtypeStruct(query.shape, query.dtype),
        interpret=interpret,
        **_costs(blocks, 2, [query, query], kv_blocks),
    )(query, *(x for kv in kv_blocks for x in kv))


def _backward(
    heads: HeadLayout,
    scale: float,
    interpret: bool,
    query: Float[Array, "B G R Q"],
    kv_blocks: Sequence[MergedBlock],
    d_out: Float[Array, "B G R Q"],
) -> tuple[Array, ...]:
    """Returns the derivatives of the query and of the keys and values of every block."""
    blocks = KernelBlocks(heads, query, kv_blocks)
    like = [query, *(x for kv in kv_blocks for x in kv[:2])]
    own = [kv.keys.shape[1] > 1 for kv in kv_blocks]
    return pl.pallas_call(
        functools.partial(_backward_kernel, heads.block.lanes, scale, query.shape[2], own),
        grid=blocks.grid,
        in_specs=[blocks.query, *blocks.kv_blocks, blocks.query],
        out_specs=[blocks.query, *(spec for i, spec in enumerate(blocks.kv_blocks) if i % 3 < 2)],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in like],
        scratch_shapes=[pltpu.VMEM((x.shape[2], blocks.lanes), jnp.float32) for x in like[1:]],
        interpret=interpret,
        **_costs(blocks, 5, [query, d_out, *like], kv_blocks),
    )(query, *(x for kv in kv_blocks for x in kv), d_out)


def _costs(
    blocks: KernelBlocks, matmuls: int, arrays: Sequence[Array], kv_blocks: Sequence[MergedBlock]
) -> dict[str, Any]:
    """Returns cost estimate and compiler parameters, as arguments of `pallas_call`.

    Args:
      blocks: the blocks of the kernel.
      matmuls: number of matmuls per block of scores.
      arrays: the query, then all other arrays that are read or written once, without the keys and values read.
      kv_blocks: the keys, values and masks.
    """
    scores = arrays[0].size * blocks.keys  # number of scores times the width of a head
    moved = sum(x.nbytes for x in (*arrays, *(x for kv in kv_blocks for x in kv[:2])))
    moved += sum(blocks.mask_bytes(kv) for kv in kv_blocks)
    cost = pl.CostEstimate(flops=2 * matmuls * scores, transcendentals=scores // blocks.width, bytes_accessed=moved)
    semantics = ("parallel", "parallel", "arbitrary", "arbitrary")  # derivatives of keys accumulate over the last two
    return {
        "cost_estimate": cost,
        "compiler_params": pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=_VMEM_BYTES),
    }


def _forward_kernel(lanes, scale, query, *refs):
    *refs, out = refs
    keys_values, masks = _blocks(refs)
    for q_lanes, k_lanes in lanes:
        weights, normalizer = _weights(scale, query[:, q_lanes], [keys[:, k_lanes] for keys, _ in keys_values], masks)
        weighted = sum(_dot(w, values[:, k_lanes], 1, 0) for w, (_, values) in zip(weights, keys_values, strict=True))
        out[:, q_lanes] = (weighted / normalizer).astype(out.dtype)


def _backward_kernel(lanes, scale, R, own, query, *refs):
    """`own[i]`: block i belongs to single responses; otherwise all responses of a question share it.

    `refs` are keys, values and mask of every block, d_out and d_query; then the derivatives of keys and values of every
    block, and in the same order their float32 accumulators.
    """
    n = len(own)
    refs, (d_out, d_query), results, sums = (
        refs[: 3 * n],
        refs[3 * n : 3 * n + 2],
        refs[3 * n + 2 : -2 * n],
        refs[-2 * n :],
    )
    keys_values, masks = _blocks(refs)
    rows, g, i = query.shape[0], pl.program_id(2), pl.program_id(3)
    first = [(i == 0) if is_own else (i == 0) & (g == 0) for is_own in own for _ in range(2)]
    end = i == pl.num_programs(3) - 1
    last = [end if is_own else end & (g == pl.num_programs(2) - 1) for is_own in own for _ in range(2)]
    for is_first, total in zip(first, sums, strict=True):
        pl.when(is_first)(functools.partial(total.__setitem__, ..., jnp.zeros(total.shape, total.dtype)))
    # The last block of rows may extend beyond the array, where its contents are undefined.
    real = jax.lax.broadcasted_iota(jnp.int32, (rows, 1), 0) < R - i * rows
    for q_lanes, k_lanes in lanes:
        q, d_o = (jnp.where(real, ref[:, q_lanes], 0) if R % rows else ref[:, q_lanes] for ref in (query, d_out))
        weights, normalizer = _weights(scale, q, [keys[:, k_lanes] for keys, _ in keys_values], masks)
        weights = [w / normalizer for w in weights]
        d_weights = [_dot(d_o, values[:, k_lanes], 1, 1) for _, values in keys_values]
        # sum over keys of weight * d_weight, which the derivative of the softmax subtracts from every d_weight
        weighted_sum = sum((w * d).sum(-1, keepdims=True) for w, d in zip(weights, d_weights, strict=True))
        d_q = 0.0
        for w, d, (keys, values), d_keys, d_values in zip(
            weights, d_weights, keys_values, sums[::2], sums[1::2], strict=True
        ):
            d_scores = scale * w * (d - weighted_sum)
            d_q += _dot(d_scores, keys[:, k_lanes], 1, 0)
            d_keys[:, k_lanes] += _dot(d_scores, q.astype(keys.dtype), 0, 0)
            d_values[:, k_lanes] += _dot(w, d_o.astype(values.dtype), 0, 0)
        d_query[:, q_lanes] = d_q.astype(d_query.dtype)  # pyrefly: ignore[missing-attribute]
    for is_last, total, result in zip(last, sums, results, strict=True):

        @pl.when(is_last)
        def _(total=total, result=result):
            result[...] = total[...].astype(result.dtype)


def _blocks(refs):
    """Returns (keys, values) of every block, as references, and the masks as bool[rows or 1, T]."""
    return list(zip(refs[::3], refs[1::3], strict=True)), [mask[...].astype(jnp.int32) != 0 for mask in refs[2::3]]


def _weights(scale, query, keys, masks):
    """Returns unnormalized weights float32[rows, T] of every block, and their sum float32[rows, 1] over all blocks."""
    scores = [jnp.where(mask, scale * _dot(query, k, 1, 1), -jnp.inf) for k, mask in zip(keys, masks, strict=True)]
    max_score = jnp.maximum(functools.reduce(jnp.maximum, [s.max(-1, keepdims=True) for s in scores]), LOWEST)
    weights = [jnp.exp(s - max_score) for s in scores]
    normalizer = sum(w.sum(-1, keepdims=True) for w in weights)
    return weights, jnp.where(normalizer == 0, 1.0, normalizer)


def _dot(x, y, i, j):
    """Returns the contraction of axis i of x with axis j of y, in the dtype of y, accumulated in float32."""
    return jax.lax.dot_general(x.astype(y.dtype), y, (((i,), (j,)), ((), ())), preferred_element_type=jnp.float32)
