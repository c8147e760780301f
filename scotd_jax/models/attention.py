"""Attention of many responses over what they share and over their own past, joined by one softmax.

Every response looks back on shared *segments* (few-shot exemplars, the question, an encoder's output), whose keys and
values exist once per question or once per batch, and on its *own* tokens. Written naively
(`grouped_attention_reference`) the shared keys are copied to every response and laid before the own ones.
`grouped_attention` computes the same numbers part by part: each part has its scores, all parts share one maximum and
one sum, and no key is copied. Its derivative keeps the log of the sum and computes the weights again, so that what is
stored between forward and backward grows with the number of tokens, not with its square.

All parts are one thing here: [b, n] matrices of keys per head, each read by the responses that share it. They are
[1, 1] for a segment of the whole batch, [B, 1] for a question's, [B, G] for parts of the own past. Heads come before
tokens, so that every matrix is contiguous, and no axes are merged: a cached step multiplies the cache where it lies.
(With b and n merged XLA updated a copy of the cache for the product, and a step took three to four times as long.)

Axes here: K key heads and M query heads per key head (H = K * M); query head h reads key head h // M. Lower case in
einsums: b, n matrices, g responses that share one, k, m heads, r queries, t keys, d head width.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scotd_jax.models.forward_options import optimization_barrier, save_for_backward

# Keys and values [B or 1, K, S, Dh], mask bool[B or 1, S], bool[B, G, S] or bool[B, G, R, S]
SharedPart = tuple[Array, Array, Array]
# Keys and values [B, G, K, T, Dh], mask bool[B or 1, G or 1, R or 1, T], bias [B or 1, G or 1, H, R, T] or None
OwnPart = tuple[Array, Array, Array, Array | None]

LOWEST = -1e30  # stands for the maximum of a row that may look at nothing; finite, so that no NaN can arise


def grouped_attention(
    query: Float[Array, "B G R H Dh"],
    segments: Sequence[SharedPart],
    own: Sequence[OwnPart],
    scale: float,
) -> Float[Array, "B G R H Dh"]:
    """Softmax in float32 over [segments ; own]; products take the dtype of the keys and accumulate in float32.

    The bias of an own part is added to its scaled scores (T5). A row that may look at nothing returns zeros. The
    result has the dtype of the queries.
    """
    B, G, R, H, Dh = query.shape
    K = (segments or own)[0][0].shape[-3]
    query = query.reshape(B, G, R, K, H // K, Dh).transpose(0, 1, 3, 4, 2, 5)
    parts = [(k, v, per_token(mask)[:, None, None, :, None], None) for k, v, mask in segments]
    for k, v, mask, bias in own:
        if bias is not None:
            bias = bias.reshape(*bias.shape[:2], K, 1, H // K, *bias.shape[3:])
        parts.append((k, v, mask[:, :, None, None, None], bias))
    out = _attend(scale, query, tuple(parts))
    return out.transpose(0, 1, 4, 2, 3, 5).reshape(B, G, R, H, Dh)


def grouped_attention_reference(query, segments, own, scale):
    """The meaning of `grouped_attention`: copy shared keys to every response, lay parts side by side, one softmax."""
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


def per_token(mask: Array) -> Bool[Array, "_ _ _ _"]:
    """The mask of a shared part as bool[B or 1, G or 1, R or 1, S], which that of an own part is anyhow."""
    return jnp.expand_dims(mask, {2: (1, 2), 3: 2, 4: ()}[mask.ndim])


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
    """float32[b, n, k, g, m, r, t], -inf where the mask is False. Mask and bias (or None) broadcast to that."""
    scores = scale * _product("bnkgmrd,bnktd->bnkgmrt", _turn(query, keys), keys)
    if bias is not None:
        scores += bias
    return jnp.where(mask, scores, -jnp.inf)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(scale, query, parts):
    """query [B, G, K, M, R, Dh], parts of (keys [b, n, K, T, Dh], or [b, K, T, Dh] where n is 1, values, mask, bias)
    -> like query."""
    return _attend_forward(scale, query, parts)[0]


def _matrices(keys: Array) -> Array:
    """[b, n, K, T, Dh]. Not before `_attend`, whose derivative keeps what it is given: in a loop over layers that is
    there already, and the same in another shape would be a copy."""
    return keys[:, None] if keys.ndim == 4 else keys


def _attend_forward(scale, query, parts):
    given, parts = parts, [(_matrices(keys), _matrices(values), *rest) for keys, values, *rest in parts]
    scores = [_scores(scale, query, keys, mask, bias) for keys, _, mask, bias in parts]
    top = functools.reduce(jnp.maximum, [_turn_back(s.max(-1), query) for s in scores])
    top = jnp.maximum(top, LOWEST)
    total, out = jnp.zeros_like(top), jnp.zeros(query.shape, jnp.float32)
    for score, (_, values, _, _) in zip(scores, parts, strict=True):
        weight = jnp.exp(score - _turn(top, values)[..., None])
        total += _turn_back(weight.sum(-1), query)
        out += _turn_back(_product("bnkgmrt,bnktd->bnkgmrd", weight, values), query)
    total = jnp.where(total == 0, 1.0, total)
    out, log_total = (
        save_for_backward((out / total[..., None]).astype(query.dtype)),
        save_for_backward(top + jnp.log(total)),
    )
    return out, (query, given, out, log_total)


def _attend_backward(scale, saved, d_out):
    query, parts, out, log_total, d_out = optimization_barrier(*saved, d_out)
    # What the normalization takes from the derivative of every score.
    along = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1)
    d_query, d_parts = jnp.zeros(query.shape, jnp.float32), []
    for given_keys, given_values, mask, bias in parts:
        keys, values = _matrices(given_keys), _matrices(given_values)
        d_o = _turn(d_out, keys).astype(values.dtype)
        weight = jnp.exp(_scores(scale, query, keys, mask, bias) - _turn(log_total, keys)[..., None])
        d_values = _product("bnkgmrt,bnkgmrd->bnktd", weight, d_o)
        d_scores = weight * (_product("bnkgmrd,bnktd->bnkgmrt", d_o, values) - _turn(along, keys)[..., None])
        d_bias = None if bias is None else _summed_to(bias, d_scores)
        d_scores = scale * d_scores
        d_query += _turn_back(_product("bnkgmrt,bnktd->bnkgmrd", d_scores, keys), query)
        d_keys = _product("bnkgmrt,bnkgmrd->bnktd", d_scores, _turn(query, keys))
        d_keys, d_values = d_keys.astype(keys.dtype), d_values.astype(values.dtype)
        d_parts.append((d_keys.reshape(given_keys.shape), d_values.reshape(given_values.shape), None, d_bias))
    return d_query.astype(query.dtype), tuple(d_parts)


def _summed_to(like: Array, x: Array) -> Array:
    """The derivative of what was broadcast: x summed over the axes in which `like` is 1."""
    axes = [i for i, (a, b) in enumerate(zip(like.shape, x.shape, strict=True)) if a != b]
    return x.sum(axes, keepdims=True)


_attend.defvjp(_attend_forward, _attend_backward)
