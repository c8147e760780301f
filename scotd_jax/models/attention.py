"""Attention of many responses over what they share and over their own past, joined by one softmax.

Every response looks back on shared *segments* (few-shot exemplars, the question, an encoder's output), whose keys and
values exist once per question or once per batch, and on its *own* tokens. Written naively
(`grouped_attention_reference`) the shared keys are copied to every response and laid before the own ones.
`grouped_attention` computes the same numbers part by part: each part has its scores, all parts share one maximum and
one sum, and no key is copied. Its derivative keeps the log of the sum and computes the weights again, so that what is
stored between forward and backward grows with the number of tokens, not with its square.

All parts are one thing here: [b, n] matrices of keys per head, each read by the responses that share it. They are
[1, 1] for a segment of the whole batch, [B, 1] for a question's, [B, G] for the own past. Heads come before tokens, so
that every matrix is contiguous, and no axes are merged: a cached step multiplies the cache where it lies. (With b and
n merged XLA updated a copy of the cache for the product, and a step took three to four times as long.)

Axes here: K key heads and M query heads per key head (H = K * M); query head h reads key head h // M. Lower case in
einsums: b, n matrices, g responses that share one, k, m heads, r queries, t keys, d head width.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

SharedPart = tuple[Array, Array, Array]  # keys and values [B or 1, K, S, Dh], mask bool[B or 1, S]
OwnPart = tuple[Array, Array, Array]  # keys and values [B, G, K, T, Dh], mask bool[B or 1, G or 1, R or 1, T]

_LOWEST = -1e30  # stands for the maximum of a row that may look at nothing; finite, so that no NaN can arise


def grouped_attention(
    query: Float[Array, "B G R H Dh"],
    segments: Sequence[SharedPart],
    own: OwnPart | None,
    scale: float,
    own_bias: Float[Array, "H R T"] | None = None,
) -> Float[Array, "B G R H Dh"]:
    """Softmax in float32 over [segments ; own]; products take the dtype of the keys and accumulate in float32.

    `own_bias` is added to the scaled scores of the own part (T5). A row that may look at nothing returns zeros.
    The result is float32.
    """
    B, G, R, H, Dh = query.shape
    parts = [(k[:, None], v[:, None], mask[:, None, None]) for k, v, mask in segments]
    if own is not None:
        parts.append(own)
    K = parts[0][0].shape[2]
    query = query.reshape(B, G, R, K, H // K, Dh).transpose(0, 1, 3, 4, 2, 5)
    if own_bias is not None:
        own_bias = own_bias.reshape(K, H // K, *own_bias.shape[1:])
    out = _attend(scale, query, tuple(parts), own_bias)
    return out.transpose(0, 1, 4, 2, 3, 5).reshape(B, G, R, H, Dh)


def grouped_attention_reference(query, segments, own, scale, own_bias=None):
    """The meaning of `grouped_attention`: copy shared keys to every response, lay parts side by side, one softmax."""
    B, G, R, H, _ = query.shape
    parts = [(k[:, None], v[:, None], mask[:, None, None]) for k, v, mask in segments] + ([own] if own else [])
    keys, values, masks = [], [], []
    for k, v, mask in parts:
        keys.append(jnp.broadcast_to(k, (B, G, *k.shape[2:])).repeat(H // k.shape[2], 2))
        values.append(jnp.broadcast_to(v, (B, G, *v.shape[2:])).repeat(H // k.shape[2], 2))
        masks.append(jnp.broadcast_to(mask, (B, G, R, mask.shape[-1]))[:, :, None])
    scores = scale * jnp.einsum("BGRHD,BGHTD->BGHRT", query, jnp.concatenate(keys, 3)).astype(jnp.float32)
    if own_bias is not None:
        scores = scores.at[..., -own_bias.shape[-1] :].add(own_bias[None, None])
    mask = jnp.concatenate(masks, -1)
    weights = jnp.where(mask, jax.nn.softmax(jnp.where(mask, scores, _LOWEST)), 0.0)
    return jnp.einsum("BGHRT,BGHTD->BGRHD", weights, jnp.concatenate(values, 3).astype(jnp.float32))


def causal(R: int, T: int, start: int | Array = 0) -> Bool[Array, "1 1 R T"]:
    """Token r, which stands in slot start + r, may look at the slots up to its own."""
    return (jnp.arange(T)[None, :] <= start + jnp.arange(R)[:, None])[None, None]


def _turn(x: Array, keys: Array) -> Array:
    """[B, G, K, ...] as a part with these keys [b, n, K, T, Dh] sees it: [b, n, K, g, ...]."""
    return x.reshape(*keys.shape[:2], -1, *x.shape[2:]).swapaxes(2, 3)


def _turn_back(x: Array, like: Array) -> Array:
    x = x.swapaxes(2, 3)
    return x.reshape(*like.shape[:2], *x.shape[3:])


def _product(spec: str, x: Array, y: Array) -> Array:
    return jnp.einsum(spec, x.astype(y.dtype), y, preferred_element_type=jnp.float32)


def _scores(scale, query, keys, mask, bias):
    """float32[b, n, K, g, M, R, T], -inf where the mask [b, n, R, T] is False. The bias is [K, M, R, T] or None."""
    scores = scale * _product("bnkgmrd,bnktd->bnkgmrt", _turn(query, keys), keys)
    if bias is not None:
        scores += bias[None, None, :, None]
    return jnp.where(mask[:, :, None, None, None], scores, -jnp.inf)


def _biases(parts, bias):
    """The bias belongs to the last part, the own one."""
    return [None] * (len(parts) - 1) + [bias]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(scale, query, parts, bias):
    """query [B, G, K, M, R, Dh], parts of (keys [b, n, K, T, Dh], values, mask) -> like query."""
    return _attend_forward(scale, query, parts, bias)[0]


def _attend_forward(scale, query, parts, bias):
    scores = [_scores(scale, query, k, mask, b) for (k, _, mask), b in zip(parts, _biases(parts, bias), strict=True)]
    top = functools.reduce(jnp.maximum, [_turn_back(s.max(-1), query) for s in scores])
    top = jnp.maximum(top, _LOWEST)
    total, out = jnp.zeros_like(top), jnp.zeros(query.shape, jnp.float32)
    for score, (_, values, _) in zip(scores, parts, strict=True):
        weight = jnp.exp(score - _turn(top, values)[..., None])
        total += _turn_back(weight.sum(-1), query)
        out += _turn_back(_product("bnkgmrt,bnktd->bnkgmrd", weight, values), query)
    total = jnp.where(total == 0, 1.0, total)
    out = out / total[..., None]
    return out, (query, parts, bias, out, top + jnp.log(total))


def _attend_backward(scale, saved, d_out):
    query, parts, bias, out, log_total = saved
    along = (d_out * out).sum(-1)  # what the normalization takes from the derivative of every score
    d_query, d_parts = jnp.zeros(query.shape, jnp.float32), []
    for (keys, values, mask), b in zip(parts, _biases(parts, bias), strict=True):
        d_o = _turn(d_out, keys).astype(values.dtype)
        weight = jnp.exp(_scores(scale, query, keys, mask, b) - _turn(log_total, keys)[..., None])
        d_values = _product("bnkgmrt,bnkgmrd->bnktd", weight, d_o)
        d_scores = weight * (_product("bnkgmrd,bnktd->bnkgmrt", d_o, values) - _turn(along, keys)[..., None])
        d_bias = None if b is None else d_scores.sum((0, 1, 3))
        d_scores = scale * d_scores
        d_query += _turn_back(_product("bnkgmrt,bnktd->bnkgmrd", d_scores, keys), query)
        d_keys = _product("bnkgmrt,bnkgmrd->bnktd", d_scores, _turn(query, keys))
        d_parts.append((d_keys.astype(keys.dtype), d_values.astype(values.dtype), None))
    return d_query.astype(query.dtype), tuple(d_parts), d_bias


_attend.defvjp(_attend_forward, _attend_backward)
