"""Attention of many responses over what they share and over their own past, joined by one softmax.

Every response looks back on shared *segments* (few-shot exemplars, the question, an encoder's output), whose keys and
values exist once per question or once per batch, and on its *own* tokens. Written naively
(`grouped_attention_reference`) the shared keys are copied once per response and laid before the own ones.
`grouped_attention` computes the same numbers part by part: each part has its scores, all parts share one maximum and
one sum, and no key is copied. Its derivative keeps the log of the sum and computes the weights again, so that what is
stored between forward and backward grows with the number of tokens, not with its square.

Axes here: K key heads and M query heads per key head (H = K * M); query head h reads key head h // M.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

SharedPart = tuple[Array, Array, Array]  # keys and values [B or 1, S, K, Dh], mask bool[B or 1, S]
OwnPart = tuple[Array, Array, Array]  # keys and values [B, G, T, K, Dh], mask bool, broadcast to [B, G, R, T]

_LOWEST = -1e30  # stands for the maximum of a row that may look at nothing; finite, so that no NaN can arise


def grouped_attention(
    query: Float[Array, "B G R H Dh"],
    segments: Sequence[SharedPart],
    own: OwnPart | None,
    scale: float,
    own_bias: Float[Array, "H R T"] | None = None,
) -> Float[Array, "B G R H Dh"]:
    """Softmax in float32 over [segments ; own]; products take the dtype of their inputs and accumulate in float32.

    `own_bias` is added to the scaled scores of the own part (T5). A row that may look at nothing returns zeros.
    The result is float32.
    """
    B, G, R, H, Dh = query.shape
    K = (own or segments[0])[0].shape[-2]
    query = query.reshape(B, G, R, K, H // K, Dh).transpose(0, 3, 1, 4, 2, 5)
    if own_bias is not None:
        own_bias = own_bias.reshape(K, H // K, *own_bias.shape[1:])
    out = _attend(scale, query, tuple(segments), own, own_bias)
    return out.transpose(0, 2, 4, 1, 3, 5).reshape(B, G, R, H, Dh)


def grouped_attention_reference(query, segments, own, scale, own_bias=None):
    """What `grouped_attention` means: copy the shared keys to every response, lay all parts side by side, one softmax."""
    B, G, R, H, _ = query.shape
    parts = [(jnp.broadcast_to(x[:, None], (B, G, *x.shape[1:])) for x in part) for part in segments]
    parts = [(k, v, jnp.broadcast_to(mask[:, :, None], (B, G, R, mask.shape[-1]))) for k, v, mask in parts]
    if own is not None:
        parts.append((own[0], own[1], jnp.broadcast_to(own[2], (B, G, R, own[0].shape[2]))))
    k, v = (jnp.concatenate([part[i] for part in parts], 2).repeat(H // parts[0][i].shape[-2], -2) for i in (0, 1))
    mask = jnp.concatenate([part[2] for part in parts], -1)[:, :, None]
    scores = jnp.einsum("BGRHD,BGTHD->BGHRT", query, k, preferred_element_type=jnp.float32) * scale
    if own_bias is not None:
        scores = scores.at[..., -own_bias.shape[-1] :].add(own_bias[None, None])
    weights = jnp.where(mask, jax.nn.softmax(jnp.where(mask, scores, _LOWEST)), 0.0)
    return jnp.einsum("BGHRT,BGTHD->BGRHD", weights, v.astype(jnp.float32))


def causal(R: int, T: int, start=0) -> Bool[Array, "1 1 R T"]:
    """Token r, which stands in slot start + r, may look at the slots up to its own."""
    return (jnp.arange(T)[None, :] <= start + jnp.arange(R)[:, None])[None, None]


# Einsum letters of one part: b B, k K, g G, m M, r R, t S or T, d Dh. Keys of a whole-batch segment have no b.
def _axes(keys: Array) -> str:
    return {3: "tkd", 4: "btkd", 5: "bgtkd"}[keys.ndim]


def _parts(query, segments, own, own_bias):
    """(keys, values, mask, bias) of every part; mask and bias have the rank of the scores [B, K, G, M, R, t]."""
    for k, v, mask in segments:
        if k.shape[0] == 1:  # one matrix for the whole batch: one product instead of B
            k, v = k[0], v[0]
        yield k, v, mask[:, None, None, None, None, :], None
    if own is not None:
        k, v, mask = own
        yield k, v, mask[:, None, :, None], own_bias


def _contract(keys: Array, x: Array, spec: str) -> Array:
    """einsum(spec, x, keys) -> float32. With own keys g comes before k meanwhile: a cache is then read as it lies,
    where the other order of batch axes would have XLA copy all of it on every step."""
    if keys.ndim == 5:
        own = jnp.einsum(spec.replace("bkg", "bgk"), x.swapaxes(1, 2), keys, preferred_element_type=jnp.float32)
        return own.swapaxes(1, 2)
    return jnp.einsum(spec, x, keys, preferred_element_type=jnp.float32)


def _scores(scale, query, k, mask, bias):
    scores = scale * _contract(k, query, f"bkgmrd,{_axes(k)}->bkgmrt")
    if bias is not None:
        scores += bias[None, :, None]
    return jnp.where(mask, scores, -jnp.inf)


def _attend_forward(scale, query, segments, own, own_bias):
    parts = list(_parts(query, segments, own, own_bias))
    scores = [_scores(scale, query, k, mask, bias) for k, _, mask, bias in parts]
    top = jnp.maximum(_LOWEST, jnp.stack([s.max(-1) for s in scores]).max(0))
    total, out = 0.0, 0.0
    for s, (_, v, _, _) in zip(scores, parts, strict=True):
        weight = jnp.exp(s - top[..., None])
        total += weight.sum(-1)
        out += _contract(v, weight.astype(v.dtype), f"bkgmrt,{_axes(v)}->bkgmrd")
    total = jnp.where(total == 0, 1.0, total)
    out = out / total[..., None]
    return out, (query, segments, own, own_bias, out, top + jnp.log(total))


def _attend_backward(scale, saved, d_out):
    query, segments, own, own_bias, out, log_total = saved
    inner = (d_out * out).sum(-1)
    d_out_low = d_out.astype(query.dtype)
    d_query, d_segments, d_own, d_bias = 0.0, [], None, None
    for k, v, mask, bias in _parts(query, segments, own, own_bias):
        axes = _axes(k)
        weight = jnp.exp(_scores(scale, query, k, mask, bias) - log_total[..., None])
        d_v = jnp.einsum(
            f"bkgmrt,bkgmrd->{axes}", weight.astype(v.dtype), d_out_low, preferred_element_type=jnp.float32
        )
        d_weight = jnp.einsum(f"bkgmrd,{axes}->bkgmrt", d_out_low, v, preferred_element_type=jnp.float32)
        d_scores = weight * (d_weight - inner[..., None])
        if bias is not None:
            d_bias = d_scores.sum((0, 2))
        d_scores = (scale * d_scores).astype(query.dtype)
        d_query += jnp.einsum(f"bkgmrt,{axes}->bkgmrd", d_scores, k, preferred_element_type=jnp.float32)
        d_k = jnp.einsum(f"bkgmrt,bkgmrd->{axes}", d_scores, query, preferred_element_type=jnp.float32)
        d_k, d_v = d_k.astype(k.dtype), d_v.astype(v.dtype)
        if k.ndim == 5:
            d_own = (d_k, d_v, None)
        else:
            d_segments.append((d_k[None], d_v[None], None) if k.ndim == 3 else (d_k, d_v, None))
    return d_query.astype(query.dtype), tuple(d_segments), d_own, d_bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(scale, query, segments, own, own_bias):
    return _attend_forward(scale, query, segments, own, own_bias)[0]


_attend.defvjp(_attend_forward, _attend_backward)
