"""From logits and one uniform number to a token: greedy, or tempered and restricted by top-k and top-p.

A token is drawn by inverse CDF, so that one number per row decides. Nothing here sorts the vocabulary: the draw
descends through sums of blocks (with 50,000 tokens it costs what their exponentials cost), and a top-p set is found by
fixing its least likely logit bit by bit.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from scotd_jax.config import Sampling


def draw(
    logits: Float[Array, "*rows V"], uniform: Float[Array, "*rows"], policy: Sampling, limit: int | None = None
) -> tuple[Int[Array, "*rows"], Float[Array, "*rows"]]:
    """One int32 token per row, and its natural log-probability under softmax(logits).

    `uniform` in [0, 1) decides; greedy (temperature 0) ignores it. Tokens from `limit` on and those with a logit of
    -inf are never drawn, but count in the probability.
    """
    if policy.temperature and (policy.top_k or policy.top_p < 1):
        allowed = logits if limit is None else jnp.where(_places(logits) < limit, logits, -jnp.inf)
        token = inverse_cdf(restrict(allowed, policy.temperature, policy.top_k, policy.top_p), uniform)
        return token, log_probability(logits, token)
    blocks = _blocks(logits)
    tops = _below(limit, blocks, jnp.max(blocks, axis=-1), jnp.max, -jnp.inf)
    top = _apart(jnp.max(tops, axis=-1, keepdims=True))
    sums = _apart(_sums(blocks, top))
    if policy.temperature == 0:
        block, target = jnp.argmax(tops, axis=-1), None
    else:
        # Tempered by products, not by quotients of the differences above: two sums that have a term in common XLA
        # takes apart, writes the term for the whole vocabulary, and needs three times as long.
        scale = 1 / policy.temperature
        weights = sums if scale == 1 else _apart(_sums(blocks * scale, top * scale))
        weights = _below(limit, blocks, weights, lambda x, axis: _sums(x * scale, top * scale), 0.0)
        target = uniform * jnp.sum(weights, axis=-1)
        block, before = _first_above(weights, target)
    inside = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    place = block.astype(jnp.int32) * blocks.shape[-1]
    real = inside if limit is None else jnp.where(place[..., None] + _places(inside) < limit, inside, -jnp.inf)
    if target is None:
        index = jnp.argmax(real, axis=-1).astype(jnp.int32)
    else:
        index, _ = _first_above(jnp.exp(real * scale - top * scale), target - before)
    chosen = jnp.take_along_axis(inside, index[..., None], axis=-1)[..., 0]
    return place + index, chosen - top[..., 0] - jnp.log(jnp.sum(sums, axis=-1))


def log_probability(logits: Float[Array, "*rows V"], token: Int[Array, "*rows"]) -> Float[Array, "*rows"]:
    """Natural log-probability of `token` under softmax(logits)."""
    chosen = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def restrict(
    logits: Float[Array, "*rows V"], temperature: float, top_k: int = 0, top_p: float = 1.0
) -> Float[Array, "*rows V"]:
    """Tempered logits, -inf outside the set that may be drawn from.

    Top-p acts on the tempered probabilities of what top-k left (the order of Hugging Face's generate). Tokens exactly
    as likely as the least likely member of the set belong to it too. top_k 0 and top_p 1 restrict nothing.
    """
    if 0 < top_k < logits.shape[-1]:
        highest = jax.lax.top_k(logits, top_k)[0]
        # Not highest[..., -1]: XLA makes a full sort of a slice of top_k, which took 80 times as long on a CPU.
        bar = jnp.min(highest, axis=-1) if top_p >= 1 else _nucleus_of_sorted(highest, temperature, top_p)
        logits = jnp.where(logits >= bar[..., None], logits, -jnp.inf)
    elif top_p < 1:
        logits = jnp.where(logits >= _nucleus(logits, temperature, top_p)[..., None], logits, -jnp.inf)
    return logits if temperature == 1 else logits / temperature


def _nucleus_of_sorted(logits: Float[Array, "*rows k"], temperature: float, top_p: float) -> Float[Array, "*rows"]:
    """Lowest of the logits, sorted from the highest on, that are needed for a share `top_p` of their probability."""
    weights = jnp.exp((logits - jnp.max(logits, axis=-1, keepdims=True)) / temperature)
    before = jnp.cumsum(weights, axis=-1) - weights
    needed = before < top_p * jnp.sum(weights, axis=-1, keepdims=True)
    return jnp.min(jnp.where(needed, logits, jnp.inf), axis=-1)


def _nucleus(logits: Float[Array, "*rows V"], temperature: float, top_p: float) -> Float[Array, "*rows"]:
    """The highest bar at or above which lies at least `top_p` of the probability; it is one of the logits.

    Not by sorting: the bar is fixed from its highest bit to its lowest, in the unsigned integers that have the order of
    the floats. Each bit takes one masked sum over the vocabulary.
    """
    weights = jnp.exp((logits - jnp.max(logits, axis=-1, keepdims=True)) / temperature)
    target = top_p * jnp.sum(weights, axis=-1)
    bits = jax.lax.bitcast_convert_type(logits, jnp.uint32)
    ordered = jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))

    def fix_bit(i: Int[Array, ""], bar: UInt32[Array, "*rows"]) -> UInt32[Array, "*rows"]:
        raised = bar | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        above = jnp.sum(jnp.where(ordered >= raised[..., None], weights, 0), axis=-1)
        return jnp.where(above >= target, raised, bar)

    bar = jax.lax.fori_loop(0, 32, fix_bit, jnp.zeros(target.shape, jnp.uint32))
    bar = jnp.maximum(bar, ~jnp.float32(-jnp.inf).view(jnp.uint32))  # where rounding left the whole below the target
    return jax.lax.bitcast_convert_type(jnp.where(bar >> 31 == 1, bar & jnp.uint32((1 << 31) - 1), ~bar), jnp.float32)


def inverse_cdf(logits: Float[Array, "*rows V"], uniform: Float[Array, "*rows"]) -> Int[Array, "*rows"]:
    """The token in whose interval of the cumulative distribution softmax(logits) `uniform` falls.

    A large vocabulary is drawn from in two levels: the block, then the token in it. Only block sums touch the whole
    vocabulary, and the running sums are short, hence accurate in float32.
    """
    top, blocks = _apart(jnp.max(logits, axis=-1, keepdims=True)), _blocks(logits)
    sums = _apart(_sums(blocks, top))
    target = uniform * jnp.sum(sums, axis=-1)
    block, before = _first_above(sums, target)
    inside = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    return block * blocks.shape[-1] + _first_above(jnp.exp(inside - top), target - before)[0]


def _apart(x: Array) -> Array:
    """`x`, whose making XLA does not mix with its use: its library for CPUs then makes it in one pass over the
    vocabulary, without an array of exponentials (measured for 240 rows of 50,272: 12 ms instead of 50)."""
    return jax.lax.optimization_barrier(x)


def _sums(blocks: Float[Array, "*rows n w"], top: Float[Array, "*rows 1"]) -> Float[Array, "*rows n"]:
    return jnp.sum(jnp.exp(blocks - top[..., None]), axis=-1)


def _below(
    limit: int | None,
    blocks: Float[Array, "*rows n w"],
    of_blocks: Float[Array, "*rows n"],
    reduce: Callable[..., Array],
    nothing: float,
) -> Float[Array, "*rows n"]:
    """What `reduce` made of every block, as if the tokens from `limit` on were not there. Only the block in which the
    limit lies is reduced again, as masking the whole vocabulary would take longer than the draw."""
    if limit is None or limit >= blocks.shape[-2] * blocks.shape[-1]:
        return of_blocks
    whole, rest = divmod(limit, blocks.shape[-1])
    kept = jnp.where(_places(of_blocks) < whole, of_blocks, nothing)
    if rest:
        kept = kept.at[..., whole].set(reduce(blocks[..., whole : whole + 1, :rest], axis=-1)[..., 0])
    return kept


def _places(x: Array) -> Int[Array, "..."]:
    """0, 1, ... along the last axis of x."""
    return jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)


def _blocks(logits: Float[Array, "*rows V"]) -> Float[Array, "*rows n w"]:
    """The vocabulary in blocks of equal width, near its square root if that is possible.

    The width divides the vocabulary's size, which costs nothing, where the blocks then are not too many or too long;
    padding would copy all logits, which takes longer than the whole draw.
    """
    size, root = logits.shape[-1], math.isqrt(logits.shape[-1] - 1) + 1
    width = min((w for w in range(1, size + 1) if size % w == 0), key=lambda w: w + size // w)
    if width + size // width > 16 * root:
        width = root
        padding = [(0, 0)] * (logits.ndim - 1) + [(0, -size % width)]
        logits = jnp.pad(logits, padding, constant_values=-jnp.inf)
    return logits.reshape(*logits.shape[:-1], -1, width)


def _first_above(
    weights: Float[Array, "*rows M"], target: Float[Array, "*rows"]
) -> tuple[Int[Array, "*rows"], Float[Array, "*rows"]]:
    """First positive weight at which the running sum exceeds `target`, and the sum before it.

    Running sums are rounded: where none exceeds the target the last positive weight is meant, and a weight of zero
    is never chosen.
    """
    running = jnp.cumsum(weights, axis=-1)
    positive: Bool[Array, "*rows M"] = weights > 0
    over = positive & (running > target[..., None])
    last = weights.shape[-1] - 1 - jnp.argmax(positive[..., ::-1], axis=-1)
    index = jnp.where(jnp.any(over, axis=-1), jnp.argmax(over, axis=-1), last).astype(jnp.int32)
    before = jnp.take_along_axis(running - weights, index[..., None], axis=-1)[..., 0]
    return index, before
