"""Sampling policies: from logits and one uniform number to a token, by greedy, temperature, top-k or top-p sampling.

Tokens are sampled by inverse CDF, which needs one random number per row. The vocabulary is never sorted. Sampling finds
the block of a token by the sums of blocks, then the token in it; with 50,000 tokens this costs as much as computing the
exponentials of all logits. The top-p threshold is found by a binary search over the bits of a logit.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from scotd_jax.config import Sampling

# Bytes of logits and weights in a group of rows for which a CPU searches the top-p threshold. With 240 rows of 50,272
# logits, all 32 passes of the search over all rows took 440 ms of CPU time, and over such groups 120 ms.
CPU_CACHE_BYTES = 4 * 2**20


def sample_token(
    logits: Float[Array, "*rows V"], uniform: Float[Array, "*rows"], policy: Sampling, vocab_limit: int | None = None
) -> tuple[Int[Array, "*rows"], Float[Array, "*rows"]]:
    """Samples one token per row.

    Args:
      logits: float32 logits.
      uniform: one random number in [0, 1) per row; greedy sampling (temperature 0) ignores it.
      policy: temperature, top_k and top_p.
      vocab_limit: ids from this one on are never sampled, but count in the log-probability; None for no limit. Tokens
        with a logit of -inf are never sampled either.

    Returns:
      int32 token ids, and their natural log-probabilities under softmax(logits).
    """
    if policy.temperature and (policy.top_k or policy.top_p < 1):
        allowed = logits if vocab_limit is None else jnp.where(_indices(logits) < vocab_limit, logits, -jnp.inf)
        token = inverse_cdf(restrict_logits(allowed, policy.temperature, policy.top_k, policy.top_p), uniform)
        return token, log_probability(logits, token)
    return _sample_unrestricted(logits, uniform, policy.temperature, vocab_limit)


def log_probability(logits: Float[Array, "*rows V"], token: Int[Array, "*rows"]) -> Float[Array, "*rows"]:
    """Natural log-probability of `token` under softmax(logits)."""
    chosen = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def restrict_logits(
    logits: Float[Array, "*rows V"], temperature: float, top_k: int = 0, top_p: float = 1.0
) -> Float[Array, "*rows V"]:
    """Applies temperature, then top-k, then top-p, in the order of Hugging Face's `generate`.

    Tokens that tie with the least likely one of the top-k or top-p set are kept, too.

    Args:
      logits: float32 logits.
      temperature: divides the logits; top-p uses the probabilities at this temperature.
      top_k: number of tokens to keep; 0 keeps all.
      top_p: share of the probability of these tokens to keep, most likely tokens first; 1 keeps all.

    Returns:
      logits / temperature, and -inf for the tokens that are not kept.
    """
    if 0 < top_k < logits.shape[-1]:
        highest = jax.lax.top_k(logits, top_k)[0]
        # Not highest[..., -1]: for a slice of top_k XLA sorts everything, which took 80 times as long on a CPU.
        threshold = jnp.min(highest, axis=-1) if top_p >= 1 else _sorted_top_p_threshold(highest, temperature, top_p)
        logits = jnp.where(logits >= threshold[..., None], logits, -jnp.inf)
    elif top_p < 1:
        logits = jnp.where(logits >= _top_p_threshold(logits, temperature, top_p)[..., None], logits, -jnp.inf)
    return logits if temperature == 1 else logits / temperature


def inverse_cdf(logits: Float[Array, "*rows V"], uniform: Float[Array, "*rows"]) -> Int[Array, "*rows"]:
    """Inverts the cumulative distribution of softmax(logits) at `uniform`; returns token ids.

    Finds the block of the token first, then the token in it. Only the block sums read the whole vocabulary, and the
    running sums are short, hence accurate in float32.
    """
    max_logit, blocks = _materialize(jnp.max(logits, axis=-1, keepdims=True)), _blocks(logits)
    sums = _materialize(_block_sums(blocks, max_logit))
    target = uniform * jnp.sum(sums, axis=-1)
    block, before = _first_above(sums, target)
    block_logits = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    return block * blocks.shape[-1] + _first_above(jnp.exp(block_logits - max_logit), target - before)[0]


def _sample_unrestricted(
    logits: Float[Array, "*rows V"], uniform: Float[Array, "*rows"], temperature: float, vocab_limit: int | None
) -> tuple[Int[Array, "*rows"], Float[Array, "*rows"]]:
    """`sample_token` without top-k and top-p: finds the block of the token first, then the token in it."""
    blocks = _blocks(logits)
    block_max = _apply_limit(vocab_limit, blocks, jnp.max(blocks, axis=-1), jnp.max, -jnp.inf)
    max_logit = _materialize(jnp.max(block_max, axis=-1, keepdims=True))
    sums = _materialize(_block_sums(blocks, max_logit))
    if temperature == 0:
        block, scale, target, before = jnp.argmax(block_max, axis=-1), 1.0, None, None
    else:
        # Scale both operands, not their difference. Otherwise `sums` and `weights` share the difference, and XLA stores
        # it for the whole vocabulary, which takes three times as long.
        scale = 1 / temperature
        weights = sums if scale == 1 else _materialize(_block_sums(blocks * scale, max_logit * scale))
        weights = _apply_limit(
            vocab_limit, blocks, weights, lambda x, axis: _block_sums(x * scale, max_logit * scale), 0.0
        )
        target = uniform * jnp.sum(weights, axis=-1)
        block, before = _first_above(weights, target)
    block_logits = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    first_id = block.astype(jnp.int32) * blocks.shape[-1]
    allowed = block_logits
    if vocab_limit is not None:
        allowed = jnp.where(first_id[..., None] + _indices(block_logits) < vocab_limit, block_logits, -jnp.inf)
    if target is None or before is None:
        index = jnp.argmax(allowed, axis=-1).astype(jnp.int32)
    else:
        index, _ = _first_above(jnp.exp(allowed * scale - max_logit * scale), target - before)
    chosen = jnp.take_along_axis(block_logits, index[..., None], axis=-1)[..., 0]
    return first_id + index, chosen - max_logit[..., 0] - jnp.log(jnp.sum(sums, axis=-1))


def _sorted_top_p_threshold(logits: Float[Array, "*rows k"], temperature: float, top_p: float) -> Float[Array, "*rows"]:
    """`_top_p_threshold` of logits in descending order."""
    weights = jnp.exp((logits - jnp.max(logits, axis=-1, keepdims=True)) / temperature)
    before = jnp.cumsum(weights, axis=-1) - weights
    needed = before < top_p * jnp.sum(weights, axis=-1, keepdims=True)
    return jnp.min(jnp.where(needed, logits, jnp.inf), axis=-1)


def _top_p_threshold(logits: Float[Array, "*rows V"], temperature: float, top_p: float) -> Float[Array, "*rows"]:
    """`_search_top_p_threshold`, on CPUs for one group of rows after another, so that they stay in the cache."""
    search = functools.partial(_search_top_p_threshold, temperature=temperature, top_p=top_p)
    *rows, V = logits.shape
    group_size = max(1, CPU_CACHE_BYTES // (2 * logits.dtype.itemsize * V))
    if math.prod(rows) <= group_size:
        return search(logits)

    def search_in_groups(logits: Float[Array, "*rows V"]) -> Float[Array, "*rows"]:
        return jax.lax.map(search, logits.reshape(-1, V), batch_size=group_size).reshape(rows)

    return jax.lax.platform_dependent(logits, cpu=search_in_groups, default=search)


def _search_top_p_threshold(logits: Float[Array, "*rows V"], temperature: float, top_p: float) -> Float[Array, "*rows"]:
    """The highest logit such that those at or above it have at least `top_p` of the probability.

    Floats are mapped to unsigned integers of the same order. The bits of the threshold are set from the highest to the
    lowest, each with one masked sum over the vocabulary.
    """
    weights = jnp.exp((logits - jnp.max(logits, axis=-1, keepdims=True)) / temperature)
    target = top_p * jnp.sum(weights, axis=-1)
    bits = jax.lax.bitcast_convert_type(logits, jnp.uint32)
    ordered = jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))

    def set_bit(i: Int[Array, ""], threshold: UInt32[Array, "*rows"]) -> UInt32[Array, "*rows"]:
        candidate = threshold | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        above = jnp.sum(jnp.where(ordered >= candidate[..., None], weights, 0), axis=-1)
        return jnp.where(above >= target, candidate, threshold)

    threshold = jax.lax.fori_loop(0, 32, set_bit, jnp.zeros(target.shape, jnp.uint32))
    # Rounding may leave the sum of all weights below the target; then every finite logit is kept.
    threshold = jnp.maximum(threshold, ~jnp.float32(-jnp.inf).view(jnp.uint32))
    return jax.lax.bitcast_convert_type(
        jnp.where(threshold >> 31 == 1, threshold & jnp.uint32((1 << 31) - 1), ~threshold), jnp.float32
    )


def _materialize(x: Array) -> Array:
    """Keeps XLA from fusing the computation of `x` with its use.

    XLA for CPUs then computes it in one pass over the vocabulary, without an array of exponentials: 12 ms instead of
    50 for 240 rows of 50,272 logits.
    """
    return jax.lax.optimization_barrier(x)


def _block_sums(blocks: Float[Array, "*rows n w"], max_logit: Float[Array, "*rows 1"]) -> Float[Array, "*rows n"]:
    return jnp.sum(jnp.exp(blocks - max_logit[..., None]), axis=-1)


def _apply_limit(
    vocab_limit: int | None,
    blocks: Float[Array, "*rows n w"],
    reduced: Float[Array, "*rows n"],
    reduce: Callable[..., Array],
    identity: float,
) -> Float[Array, "*rows n"]:
    """Returns `reduced`, the result of `reduce` for every block, without the ids that are `vocab_limit` or larger.

    Only the block that contains the limit is reduced again: masking the whole vocabulary takes longer than sampling.
    """
    if vocab_limit is None or vocab_limit >= blocks.shape[-2] * blocks.shape[-1]:
        return reduced
    full_blocks, rest = divmod(vocab_limit, blocks.shape[-1])
    limited = jnp.where(_indices(reduced) < full_blocks, reduced, identity)
    if rest:
        boundary = reduce(blocks[..., full_blocks : full_blocks + 1, :rest], axis=-1)[..., 0]
        limited = limited.at[..., full_blocks].set(boundary)
    return limited


def _indices(x: Array) -> Int[Array, "..."]:
    """0, 1, ... along the last axis of x."""
    return jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)


def _blocks(logits: Float[Array, "*rows V"]) -> Float[Array, "*rows n w"]:
    """The vocabulary in blocks of equal width, if possible near its square root.

    A width that divides the vocabulary costs nothing. Padding copies all logits, which takes longer than sampling, so
    it is used only if the blocks would otherwise be far too many or too long.
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
    """Index of the first positive weight at which the running sum exceeds `target`, and the sum before it.

    Running sums are rounded. If none exceeds the target, the last positive weight is chosen; a weight of zero never is.
    """
    running = jnp.cumsum(weights, axis=-1)
    positive: Bool[Array, "*rows M"] = weights > 0
    over = positive & (running > target[..., None])
    last = weights.shape[-1] - 1 - jnp.argmax(positive[..., ::-1], axis=-1)
    index = jnp.where(jnp.any(over, axis=-1), jnp.argmax(over, axis=-1), last).astype(jnp.int32)
    before = jnp.take_along_axis(running - weights, index[..., None], axis=-1)[..., 0]
    return index, before
