"""Grouped attention: many responses attend to shared keys and to their own past, joined by one softmax.

Every response attends to shared *segments* (few-shot examples, the question, an encoder's output), whose keys and
values exist once per question or once per batch, and to its *own* tokens. Written naively
(`grouped_attention_reference`), shared keys are copied for every response and concatenated with its own.
`grouped_attention` computes the same numbers block by block: each block of keys has its own scores, all blocks share
one maximum and one sum, and no key is copied. Its derivative saves the log of the sum and recomputes the weights, so
the memory held between forward and backward pass grows linearly with the number of tokens, not quadratically.

All blocks have one layout. A block holds b * n matrices of keys per head, and each matrix serves one or more responses:
[b, n] is [1, 1] for a segment of the whole batch, [B, 1] for a segment per question, and [B, G] for a response's own
keys. Heads come before tokens, so that every matrix is contiguous. No axes are merged, so that a decode step reads the
cache in place. (With b and n merged, XLA copied the cache for the matmul, and a step took three to four times as long.)

Axes here: K key heads and M query heads per key head (H = K * M); query head h reads key head h // M. Lower-case
letters in einsums: b, n matrices; g responses that share a matrix; k, m heads; r queries; t keys; d head width.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scotd_jax.models.forward_options import optimization_barrier, save_for_backward

# Keys and values [B or 1, K, S, Dh], mask bool[B or 1, S], bool[B, G, S] or bool[B, G, R, S]
SharedKV = tuple[Array, Array, Array]
# Keys and values [B, G, K, T, Dh], mask bool[B or 1, G or 1, R or 1, T], bias [B or 1, G or 1, H, R, T] or None
OwnKV = tuple[Array, Array, Array, Array | None]

LOWEST = -1e30  # the maximum of a fully masked row; finite, so that no NaN can arise


def grouped_attention(
    query: Float[Array, "B G R H Dh"],
    segments: Sequence[SharedKV],
    own: Sequence[OwnKV],
    scale: float,
) -> Float[Array, "B G R H Dh"]:
    """Softmax attention over [segments ; own] in float32; matmuls take the dtype of the keys and accumulate in float32.

    Args:
      query: queries.
      segments: keys, values and masks that responses share.
      own: keys, values, masks and biases of each response.
      scale: multiplies the scores, before the bias is added.

    Returns:
      The weighted values, in the dtype of the queries; zeros for a query whose keys are all masked.
    """
    B, G, R, H, Dh = query.shape
    K = (segments or own)[0][0].shape[-3]
    query = query.reshape(B, G, R, K, H // K, Dh).transpose(0, 1, 3, 4, 2, 5)
    blocks: list[tuple[Array, Array, Array, Array | None]] = [
        (k, v, per_token_mask(mask)[:, None, None, :, None], None) for k, v, mask in segments
    ]
    for k, v, mask, bias in own:
        if bias is not None:
            bias = bias.reshape(*bias.shape[:2], K, 1, H // K, *bias.shape[3:])
        blocks.append((k, v, mask[:, :, None, None, None], bias))
    out = _attention(scale, query, tuple(blocks))
    return out.transpose(0, 1, 4, 2, 3, 5).reshape(B, G, R, H, Dh)


def grouped_attention_reference(query, segments, own, scale):
    """Definition of `grouped_attention`: copies shared keys for every response, concatenates, one softmax."""
    B, G, R, H, _ = query.shape
    shared = [
        (k[:, None], v[:, None], {2: m[:, None, None], 3: m[:, :, None], 4: m}[m.ndim], None) for k, v, m in segments
    ]
    keys, values, masks, biases = [], [], [], []
    for k, v, mask, bias in (*shared, *own):
        keys.append(jnp.broadcast_to(k, (B, G, *k.shape[2:])).repeat(H // k.shape[2], 2))
        values.append(jnp.broadcast_to(v, (B, G, *v.shape[2:])).repeat(H // k.shape[2], 2))
        masks.append(jnp.broadcast_to(mask, (B, G, R, mask.shape[-1]))[:, :, None])
        biases.append(jnp.broadcast_to(0.0 if bias is None else bias, (B, G, H, R, mask.shape[-1])))
    scores = scale * jnp.einsum("BGRHD,BGHTD->BGHRT", query, jnp.concatenate(keys, 3)).astype(jnp.float32)
    scores, mask = scores + jnp.concatenate(biases, -1), jnp.concatenate(masks, -1)
    weights = jnp.where(mask, jax.nn.softmax(jnp.where(mask, scores, LOWEST)), 0.0)
    return jnp.einsum("BGHRT,BGHTD->BGRHD", weights, jnp.concatenate(values, 3).astype(jnp.float32))


def per_token_mask(mask: Array) -> Bool[Array, "_ _ _ _"]:
    """Returns the mask of a shared segment with the axes of `OwnKV` masks, bool[B or 1, G or 1, R or 1, S]."""
    return jnp.expand_dims(mask, {2: (1, 2), 3: 2, 4: ()}[mask.ndim])


def causal_mask(R: int, T: int, start: int | Array = 0) -> Bool[Array, "1 1 R T"]:
    """Returns a mask that lets token r attend to the slots up to its own, slot start + r."""
    return (jnp.arange(T)[None, :] <= start + jnp.arange(R)[:, None])[None, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(scale, query, blocks):
    """Attention over blocks of (keys, values, mask, bias).

    query is [B, G, K, M, R, Dh], as is the result. Keys and values are [b, n, K, T, Dh], or [b, K, T, Dh] if n is 1.
    """
    return _attention_forward(scale, query, blocks)[0]


def _attention_forward(scale, query, blocks):
    residual_blocks, blocks = blocks, [(_with_n_axis(k), _with_n_axis(v), *rest) for k, v, *rest in blocks]
    scores = [_scores(scale, query, keys, mask, bias) for keys, _, mask, bias in blocks]
    max_score = functools.reduce(jnp.maximum, [_to_responses(s.max(-1), query) for s in scores])
    max_score = jnp.maximum(max_score, LOWEST)
    normalizer, out = jnp.zeros_like(max_score), jnp.zeros(query.shape, jnp.float32)
    for score, (_, values, _, _) in zip(scores, blocks, strict=True):
        weight = jnp.exp(score - _to_matrices(max_score, values)[..., None])
        normalizer += _to_responses(weight.sum(-1), query)
        out += _to_responses(_einsum_float32("bnkgmrt,bnktd->bnkgmrd", weight, values), query)
    normalizer = jnp.where(normalizer == 0, 1.0, normalizer)
    out = save_for_backward((out / normalizer[..., None]).astype(query.dtype))
    logsumexp = save_for_backward(max_score + jnp.log(normalizer))
    return out, (query, residual_blocks, out, logsumexp)


def _attention_backward(scale, residuals, d_out):
    query, blocks, out, logsumexp, d_out = optimization_barrier(*residuals, d_out)
    # sum over keys of weight * d_weight, which the derivative of the softmax subtracts from every d_weight
    weighted_sum = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1)
    d_query, d_blocks = jnp.zeros(query.shape, jnp.float32), []
    for block_keys, block_values, mask, bias in blocks:
        keys, values = _with_n_axis(block_keys), _with_n_axis(block_values)
        d_o = _to_matrices(d_out, keys).astype(values.dtype)
        weight = jnp.exp(_scores(scale, query, keys, mask, bias) - _to_matrices(logsumexp, keys)[..., None])
        d_values = _einsum_float32("bnkgmrt,bnkgmrd->bnktd", weight, d_o)
        d_weight = _einsum_float32("bnkgmrd,bnktd->bnkgmrt", d_o, values)
        d_scores = weight * (d_weight - _to_matrices(weighted_sum, keys)[..., None])
        d_bias = None if bias is None else _sum_to_shape(d_scores, bias)
        d_scores = scale * d_scores
        d_query += _to_responses(_einsum_float32("bnkgmrt,bnktd->bnkgmrd", d_scores, keys), query)
        d_keys = _einsum_float32("bnkgmrt,bnkgmrd->bnktd", d_scores, _to_matrices(query, keys))
        d_keys, d_values = d_keys.astype(keys.dtype), d_values.astype(values.dtype)
        d_blocks.append((d_keys.reshape(block_keys.shape), d_values.reshape(block_values.shape), None, d_bias))
    return d_query.astype(query.dtype), tuple(d_blocks)


_attention.defvjp(_attention_forward, _attention_backward)


def _scores(scale, query, keys, mask, bias):
    """float32[b, n, k, g, m, r, t], -inf where the mask is False. Mask and bias (or None) broadcast to that."""
    scores = scale * _einsum_float32("bnkgmrd,bnktd->bnkgmrt", _to_matrices(query, keys), keys)
    if bias is not None:
        scores += bias
    return jnp.where(mask, scores, -jnp.inf)


def _with_n_axis(keys: Array) -> Array:
    """Returns the keys as [b, n, K, T, Dh].

    Called inside `_attention`, whose derivative saves its arguments: in a scan over layers, an argument reshaped before
    the call would be saved as a second copy of the same array.
    """
    return keys[:, None] if keys.ndim == 4 else keys


def _to_matrices(x: Array, keys: Array) -> Array:
    """[B, G, K, ...] -> [b, n, K, g, ...], where keys are [b, n, K, T, Dh]."""
    return x.reshape(*keys.shape[:2], -1, *x.shape[2:]).swapaxes(2, 3)


def _to_responses(x: Array, like: Array) -> Array:
    """The inverse of `_to_matrices`; `like` is [B, G, ...]."""
    x = x.swapaxes(2, 3)
    return x.reshape(*like.shape[:2], *x.shape[3:])


def _einsum_float32(spec: str, x: Array, y: Array) -> Array:
    """Casts x to the dtype of y and accumulates in float32."""
    return jnp.einsum(spec, x.astype(y.dtype), y, preferred_element_type=jnp.float32)


def _sum_to_shape(x: Array, like: Array) -> Array:
    """The derivative of a broadcast: sums x over the axes of size 1 in `like`."""
    axes = [i for i, (a, b) in enumerate(zip(like.shape, x.shape, strict=True)) if a != b]
    return x.sum(axes, keepdims=True)
