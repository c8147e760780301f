"""From logits and one uniform number to a token: greedy, or tempered and restricted by top-k and top-p.

A token is drawn by inverse CDF, so that one number per row decides. Nothing here sorts the vocabulary: the draw
descends through sums of blocks (with 50,000 tokens it costs what their exponentials cost), and a top-p set is found by
fixing its least likely logit bit by bit.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from scotd_jax.config import Sampling

SMALL = 512  # vocabularies up to this size are drawn from in one level


def draw(logits: Float[Array, "*rows V"], uniform: Float[Array, "*rows"], policy: Sampling) -> Int[Array, "*rows"]:
    """One int32 token per row. `uniform` in [0, 1) decides; greedy (temperature 0) ignores it.

    Tokens with a logit of -inf are never drawn.
    """
    if policy.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return inverse_cdf(restrict(logits, policy.temperature, policy.top_k, policy.top_p), uniform)


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

    A large vocabulary is drawn from in two levels of about sqrt(V) each: the block, then the token in it. Only block
    sums touch the whole vocabulary, and the running sums are short, hence accurate in float32.
    """
    size = logits.shape[-1]
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    if size <= SMALL:
        return _first_above(weights, uniform * jnp.sum(weights, axis=-1))[0]
    width = math.isqrt(size - 1) + 1
    padding = [(0, 0)] * (weights.ndim - 1) + [(0, -size % width)]
    blocks = jnp.pad(weights, padding).reshape(*weights.shape[:-1], -1, width)
    sums = jnp.sum(blocks, axis=-1)
    block, before = _first_above(sums, uniform * jnp.sum(sums, axis=-1))
    inside = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    target = uniform * jnp.sum(sums, axis=-1) - before
    return block * width + _first_above(inside, target)[0]


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
