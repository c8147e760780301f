"""The two kernels of fused attention, for TPUs, in Pallas. fused.py says what they are for and calls them.

One step of the grid has some query rows of one response and all keys that they may look at, of every part, in VMEM. So
the softmax of a row is seen whole, without a running maximum, and nothing leaves the chip's core but results. The
backward kernel computes the weights again in the same way and needs nothing that the forward one has found. Derivatives
of keys and values add up in VMEM over all rows that read them (of shared keys over all responses of a question) and are
written once.

Heads lie side by side in the last axis, as the projections give them, and a block has whole columns of 128 lanes: two
heads of width 64, one of 128. With grouped queries it has all query heads that read its key heads, which share one copy
of keys and mask.

Axes besides those of attention.py: N is 1 for a shared part and G for an own one; C = K * Dh lanes, Q = H * Dh.
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

LANES = 128
KEYS = 4096  # of all parts together: more do not fit into VMEM
_ROWS = 32  # blocks of query rows are multiples of this, which arrays of every dtype here can be cut into
SCORES = 2**18  # of one head that exist at one time
_VMEM = 64 * 2**20  # bytes, of the 128 MiB that there are


class Part(NamedTuple):
    """`mask` is 0 where a key may not be seen. T is a multiple of LANES."""

    keys: Float[Array, "B N T C"]
    values: Float[Array, "B N T C"]
    mask: Int[Array, "B_or_1 G_or_1 R_or_1 T"]


@dataclasses.dataclass(frozen=True)
class Heads:
    """`keys` key heads of so many lanes, each read by `readers` query heads."""

    keys: int
    readers: int
    width: int

    @property
    def block(self) -> "Heads":
        """Those that one step of the grid has: the fewest that fill columns of lanes, or all."""
        fewest = math.lcm(self.width, LANES) // self.width
        return dataclasses.replace(self, keys=self.keys if self.keys % fewest else fewest)

    @property
    def lanes(self) -> list[tuple[slice, slice]]:
        """Of every query head, and of the key head that it reads."""
        heads = [(i, i // self.readers) for i in range(self.keys * self.readers)]
        return [
            (slice(i * self.width, (i + 1) * self.width), slice(j * self.width, (j + 1) * self.width)) for i, j in heads
        ]


class Blocks:
    """How arrays are cut: a grid over questions, blocks of heads, responses and blocks of rows, the last ones fastest,
    and for every kind of array which of its blocks a step of the grid has."""

    def __init__(self, heads: Heads, query: Float[Array, "B G R Q"], parts: Sequence[Part]):
        B, G, R, _ = query.shape
        self.width, self.keys = heads.width, sum(part.keys.shape[2] for part in parts)
        most = max(_ROWS, SCORES // self.keys // _ROWS * _ROWS)
        self.rows = round_up(-(-R // -(-R // most)), _ROWS)
        self.grid = (B, heads.keys // heads.block.keys, G, -(-R // self.rows))
        self.lanes = heads.block.keys * heads.width
        block = (None, None, self.rows, heads.readers * self.lanes)
        self.query = pl.BlockSpec(block, lambda b, j, g, i: (b, g, i, j))
        self.parts = [spec for part in parts for spec in (*[self._keys(part)] * 2, self._mask(part))]

    def _keys(self, part: Part) -> pl.BlockSpec:
        _, N, T, _ = part.keys.shape
        return pl.BlockSpec((None, None, T, self.lanes), lambda b, j, g, i: (b, g if N > 1 else 0, 0, j))

    def _mask(self, part: Part) -> pl.BlockSpec:
        b_size, g_size, r_size, T = part.mask.shape

        def place(b, j, g, i):
            return b if b_size > 1 else 0, g if g_size > 1 else 0, i if r_size > 1 else 0, 0

        return pl.BlockSpec((None, None, self.rows if r_size > 1 else 1, T), place)

    def mask_bytes(self, part: Part) -> int:
        """That are read: a block is read whenever the step before had another one."""
        (B, J, G, blocks), (b_size, g_size, r_size, T) = self.grid, part.mask.shape
        if r_size > 1 and blocks > 1:
            times = B * J * G * blocks
        else:
            times = B * J * G if g_size > 1 else b_size
        return times * (self.rows if r_size > 1 else 1) * T * part.mask.dtype.itemsize


def forward(
    heads: Heads, scale: float, interpret: bool, query: Float[Array, "B G R Q"], parts: Sequence[Part]
) -> Array:
    """Like query."""
    blocks = Blocks(heads, query, parts)
    return pl.pallas_call(
        functools.partial(_forward, heads.block.lanes, scale),
        grid=blocks.grid,
        in_specs=[blocks.query, *blocks.parts],
        out_specs=blocks.query,
        out_shape=jax.ShapeDtypeStruct(query.shape, query.dtype),
        interpret=interpret,
        **_costs(blocks, 2, [query, query], parts),
    )(query, *(x for part in parts for x in part))


def backward(
    heads: Heads,
    scale: float,
    interpret: bool,
    query: Float[Array, "B G R Q"],
    parts: Sequence[Part],
    d_out: Float[Array, "B G R Q"],
) -> tuple[Array, ...]:
    """The derivatives of the query and of the keys and values of every part, in their dtypes."""
    blocks, like = Blocks(heads, query, parts), [query, *(x for part in parts for x in part[:2])]
    return pl.pallas_call(
        functools.partial(_backward, heads.block.lanes, scale, query.shape[2], [p.keys.shape[1] > 1 for p in parts]),
        grid=blocks.grid,
        in_specs=[blocks.query, *blocks.parts, blocks.query],
        out_specs=[blocks.query, *(spec for i, spec in enumerate(blocks.parts) if i % 3 < 2)],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in like],
        scratch_shapes=[pltpu.VMEM((x.shape[2], blocks.lanes), jnp.float32) for x in like[1:]],
        interpret=interpret,
        **_costs(blocks, 5, [query, d_out, *like], parts),
    )(query, *(x for part in parts for x in part), d_out)


def _costs(blocks: Blocks, products: int, arrays: Sequence[Array], parts: Sequence[Part]) -> dict[str, Any]:
    """What the compiler is told of a kernel, which it cannot look into. `arrays` are read or written once, besides the
    parts."""
    scores = arrays[0].size * blocks.keys
    moved = sum(x.nbytes for x in (*arrays, *(x for part in parts for x in part[:2])))
    moved += sum(blocks.mask_bytes(part) for part in parts)
    cost = pl.CostEstimate(flops=2 * products * scores, transcendentals=scores // blocks.width, bytes_accessed=moved)
    order = ("parallel", "parallel", "arbitrary", "arbitrary")  # over the last ones derivatives of keys add up
    return {
        "cost_estimate": cost,
        "compiler_params": pltpu.CompilerParams(dimension_semantics=order, vmem_limit_bytes=_VMEM),
    }


def _forward(lanes, scale, query, *refs):
    *refs, out = refs
    parts, masks = _parts(refs)
    for at, of in lanes:
        weights, total = _weights(scale, query[:, at], [keys[:, of] for keys, _ in parts], masks)
        found = sum(_dot(w, values[:, of], 1, 0) for w, (_, values) in zip(weights, parts, strict=True))
        out[:, at] = (found / total).astype(out.dtype)


def _backward(lanes, scale, R, own, query, *refs):
    n = len(own)
    refs, (d_out, d_query), results, sums = (
        refs[: 3 * n],
        refs[3 * n : 3 * n + 2],
        refs[3 * n + 2 : -2 * n],
        refs[-2 * n :],
    )
    parts, masks = _parts(refs)
    rows, g, i = query.shape[0], pl.program_id(2), pl.program_id(3)
    first = [(i == 0) if alone else (i == 0) & (g == 0) for alone in own for _ in range(2)]
    end = i == pl.num_programs(3) - 1
    last = [end if alone else end & (g == pl.num_programs(2) - 1) for alone in own for _ in range(2)]
    for begins, each in zip(first, sums, strict=True):
        pl.when(begins)(functools.partial(each.__setitem__, ..., jnp.zeros(each.shape, each.dtype)))
    # The last block may reach beyond the array, where anything may stand.
    real = jax.lax.broadcasted_iota(jnp.int32, (rows, 1), 0) < R - i * rows
    for at, of in lanes:
        q, d_o = (jnp.where(real, ref[:, at], 0) if R % rows else ref[:, at] for ref in (query, d_out))
        weights, total = _weights(scale, q, [keys[:, of] for keys, _ in parts], masks)
        weights = [w / total for w in weights]
        d_weights = [_dot(d_o, values[:, of], 1, 1) for _, values in parts]
        # What the normalization takes from the derivative of every score.
        along = sum((w * d).sum(-1, keepdims=True) for w, d in zip(weights, d_weights, strict=True))
        d_q = 0.0
        for w, d, (keys, values), d_keys, d_values in zip(
            weights, d_weights, parts, sums[::2], sums[1::2], strict=True
        ):
            d_scores = scale * w * (d - along)
            d_q += _dot(d_scores, keys[:, of], 1, 0)
            d_keys[:, of] += _dot(d_scores, q.astype(keys.dtype), 0, 0)
            d_values[:, of] += _dot(w, d_o.astype(values.dtype), 0, 0)
        d_query[:, at] = d_q.astype(d_query.dtype)
    for ends, each, result in zip(last, sums, results, strict=True):

        @pl.when(ends)
        def _(each=each, result=result):
            result[...] = each[...].astype(result.dtype)


def _parts(refs):
    """(keys, values) of every part, and bool[rows or 1, T]."""
    return list(zip(refs[::3], refs[1::3], strict=True)), [mask[...].astype(jnp.int32) != 0 for mask in refs[2::3]]


def _weights(scale, query, keys, masks):
    """float32[rows, T] of every part, to be divided by float32[rows, 1], which they add up to."""
    scores = [jnp.where(mask, scale * _dot(query, k, 1, 1), -jnp.inf) for k, mask in zip(keys, masks, strict=True)]
    top = jnp.maximum(functools.reduce(jnp.maximum, [s.max(-1, keepdims=True) for s in scores]), LOWEST)
    weights = [jnp.exp(s - top) for s in scores]
    total = sum(w.sum(-1, keepdims=True) for w in weights)
    return weights, jnp.where(total == 0, 1.0, total)


def _dot(x, y, i, j):
    """The product over axis i of x and axis j of y, in the dtype of y, accumulated in float32."""
    return jax.lax.dot_general(x.astype(y.dtype), y, (((i,), (j,)), ((), ())), preferred_element_type=jnp.float32)
