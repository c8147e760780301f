"""The loss on response tokens, without ever holding the logits of a whole batch.

Losses are (sum, weight) pairs, never means: they add up over chunks, micro-batches, hosts and batches, and are divided
once, at the end. So padding and the way a batch is cut never change a result.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scotd_jax.models.layers import logits


class Weighted(NamedTuple):
    """A sum of weighted terms and the sum of their weights, both float32 scalars."""

    sum: jax.Array
    weight: jax.Array

    def plus(self, other: "Weighted") -> "Weighted":
        return Weighted(self.sum + other.sum, self.weight + other.weight)

    def mean(self) -> jax.Array:
        """The weighted mean; 0 where nothing has weight."""
        return self.sum / jnp.where(self.weight == 0, 1.0, self.weight)


def response_loss(
    hidden_BGRE: Float[Array, "B G R E"],
    unembedding_VE: Float[Array, "V E"],
    targets_BGR: Int[Array, "B G R"],
    weights_BGR: Float[Array, "B G R"],
    compute_dtype: str = "float32",
    chunk: int = 0,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Weighted, ...]:
    """Cross entropy (nats) of the targets and how many of them are the most likely token, both weighted.

    Logits exist for about `chunk` tokens at a time, counted over the whole batch (0: all at once), and only once: what
    the backward pass needs of them is made while they are there. Chunks are cut along the tokens of a question, so that
    a batch which is split over devices along B stays where it is. A target that ties with the largest logit counts as
    most likely. Only the sum that is optimized has a derivative.

    Where one of them is not 0, a third sum follows: the objective, to be optimized in place of the cross entropy. It
    is the cross entropy against `label_smoothing` of the probability spread evenly over the whole vocabulary and the
    rest on the target (Szegedy et al., arXiv 1512.00567, section 7), plus `z_loss` * log(Z) ** 2, Z being the sum of
    the exponentials of the logits (PaLM, arXiv 2204.02311, section 5).
    """
    B, G, R, E = hidden_BGRE.shape
    tokens = G * R
    parts = 1 if chunk <= 0 else -(-tokens // min(tokens, max(1, chunk // B)))
    size = -(-tokens // parts)

    def cut(array: jax.Array, *width: int) -> jax.Array:
        rows = array.reshape(B, tokens, *width)
        rows = jnp.pad(rows, [(0, 0), (0, parts * size - tokens)] + [(0, 0)] * len(width))
        return jnp.moveaxis(rows.reshape(B, parts, size, *width), 1, 0)

    terms = functools.partial(_sums, compute_dtype, label_smoothing, z_loss)
    sums = _over_chunks(terms, cut(hidden_BGRE, E), unembedding_VE, cut(targets_BGR), cut(weights_BGR))
    weight = jnp.sum(weights_BGR)
    correct, loss, *objective = (Weighted(sum, weight) for sum in sums)
    return loss, correct, *objective


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _over_chunks(terms, hidden_CBTE, unembedding_VE, targets_CBT, weights_CBT):
    """The sums of `terms` over all chunks. The last of them alone has a derivative: its gradient is a number times what
    it is for a cotangent of 1, so the forward pass can take it along, chunk by chunk, and keep no logits."""

    def body(total, piece):
        return _plus(total, terms(unembedding_VE, *piece)), None

    none = jax.eval_shape(terms, unembedding_VE, hidden_CBTE[0], targets_CBT[0], weights_CBT[0])
    sums, _ = jax.lax.scan(body, _zeros(none), (hidden_CBTE, targets_CBT, weights_CBT))
    return sums


def _over_chunks_forward(terms, hidden_CBTE, unembedding_VE, targets_CBT, weights_CBT):
    def objective(both, *piece):
        sums = terms(both[0], both[1], *piece)
        return sums[-1], sums

    def body(carry, piece):
        total, d_unembedding_VE = carry
        hidden_BTE, *rest = piece
        (d_here_VE, d_hidden_BTE), sums = jax.grad(objective, has_aux=True)((unembedding_VE, hidden_BTE), *rest)
        return (_plus(total, sums), d_unembedding_VE + d_here_VE), d_hidden_BTE

    none = jax.eval_shape(terms, unembedding_VE, hidden_CBTE[0], targets_CBT[0], weights_CBT[0])
    start = _zeros(none), jnp.zeros_like(unembedding_VE)
    (sums, d_unembedding_VE), d_hidden_CBTE = jax.lax.scan(body, start, (hidden_CBTE, targets_CBT, weights_CBT))
    return sums, (d_hidden_CBTE, d_unembedding_VE)


def _over_chunks_backward(terms, saved, cotangents):
    d_hidden_CBTE, d_unembedding_VE = saved
    return cotangents[-1] * d_hidden_CBTE, cotangents[-1] * d_unembedding_VE, None, None


_over_chunks.defvjp(_over_chunks_forward, _over_chunks_backward)


def _plus(total, terms):
    return tuple(a + b for a, b in zip(total, terms, strict=True))


def _zeros(like):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)


def _sums(compute_dtype, label_smoothing, z_loss, unembedding_VE, hidden_BTE, targets_BT, weights_BT):
    logits_BTV = logits(hidden_BTE, unembedding_VE, compute_dtype)
    top_BT1 = jax.lax.stop_gradient(jnp.max(logits_BTV, axis=-1, keepdims=True))
    log_z_BT = jnp.log(jnp.sum(jnp.exp(logits_BTV - top_BT1), axis=-1)) + top_BT1[..., 0]
    # A masked sum, not a gather: its gradient is no scatter, and it splits along a vocabulary that is sharded.
    is_target_BTV = targets_BT[..., None] == jax.lax.broadcasted_iota(targets_BT.dtype, logits_BTV.shape, 2)
    chosen_BT = jnp.sum(jnp.where(is_target_BTV, logits_BTV, 0.0), axis=-1)
    hits_BT = jax.lax.stop_gradient(chosen_BT) >= top_BT1[..., 0]
    sums = jnp.sum(jnp.where(hits_BT, weights_BT, 0.0)), jnp.sum(weights_BT * (log_z_BT - chosen_BT))
    if not (label_smoothing or z_loss):
        return sums
    aim_BT = (1 - label_smoothing) * chosen_BT + label_smoothing * jnp.mean(logits_BTV, axis=-1)
    return *sums, jnp.sum(weights_BT * (log_z_BT - aim_BT + z_loss * jnp.square(log_z_BT)))


def response_loss_reference(
    hidden_BGRE: Float[Array, "B G R E"],
    unembedding_VE: Float[Array, "V E"],
    targets_BGR: Int[Array, "B G R"],
    weights_BGR: Float[Array, "B G R"],
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Weighted, ...]:
    """What `response_loss` means, in float32 and in the fewest lines."""
    logits_BGRV = hidden_BGRE.astype(jnp.float32) @ unembedding_VE.T
    log_p_BGRV = jax.nn.log_softmax(logits_BGRV)
    loss_BGR = -jnp.take_along_axis(log_p_BGRV, targets_BGR[..., None], axis=-1)[..., 0]
    hits_BGR = jnp.argmax(log_p_BGRV, axis=-1) == targets_BGR
    terms = [loss_BGR, hits_BGR.astype(jnp.float32)]
    if label_smoothing or z_loss:
        V = unembedding_VE.shape[0]
        aim_BGRV = (1 - label_smoothing) * jax.nn.one_hot(targets_BGR, V) + label_smoothing / V
        log_z_BGR = jax.nn.logsumexp(logits_BGRV, axis=-1)
        terms.append(-jnp.sum(aim_BGRV * log_p_BGRV, axis=-1) + z_loss * log_z_BGR**2)
    return tuple(Weighted(jnp.sum(weights_BGR * term), jnp.sum(weights_BGR)) for term in terms)
