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

    terms = functools.partial(_terms, compute_dtype, label_smoothing, z_loss)
    sums = _over_chunks(terms, cut(hidden_BGRE, E), unembedding_VE, cut(targets_BGR), cut(weights_BGR))
    weight = jnp.sum(weights_BGR)
    correct, loss, *objective = (Weighted(sum, weight) for sum in sums)
    return loss, correct, *objective


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _over_chunks(terms, hidden_CBTE, unembedding_VE, targets_CBT, weights_CBT):
    """The sums of `terms` over all chunks. The last of them alone has a derivative: its gradient is a number times what
    it is for a cotangent of 1, so the forward pass can take it along, chunk by chunk, and keep no logits."""

    def body(total, piece):
        return total + terms(unembedding_VE, *piece)[0], None

    chunks = hidden_CBTE, targets_CBT, weights_CBT
    return jax.lax.scan(body, _no_sums(terms, unembedding_VE, chunks), chunks)[0]


def _over_chunks_forward(terms, hidden_CBTE, unembedding_VE, targets_CBT, weights_CBT):
    def body(carry, piece):
        total, d_unembedding_VE = carry
        sums, gradient = terms(unembedding_VE, *piece)
        d_hidden_BTE, d_here_VE = gradient()
        return (total + sums, d_unembedding_VE + d_here_VE), d_hidden_BTE

    chunks = hidden_CBTE, targets_CBT, weights_CBT
    start = _no_sums(terms, unembedding_VE, chunks), jnp.zeros_like(unembedding_VE)
    (sums, d_unembedding_VE), d_hidden_CBTE = jax.lax.scan(body, start, chunks)
    return sums, (d_hidden_CBTE, d_unembedding_VE)


def _over_chunks_backward(terms, saved, cotangents):
    d_hidden_CBTE, d_unembedding_VE = saved
    return cotangents[-1] * d_hidden_CBTE, cotangents[-1] * d_unembedding_VE, None, None


_over_chunks.defvjp(_over_chunks_forward, _over_chunks_backward)


def _no_sums(terms, unembedding_VE, chunks):
    like = jax.eval_shape(lambda *chunk: terms(unembedding_VE, *chunk)[0], *(chunk[0] for chunk in chunks))
    return jnp.zeros(like.shape, like.dtype)


def _terms(compute_dtype, label_smoothing, z_loss, unembedding_VE, hidden_BTE, targets_BT, weights_BT):
    """The sums of one chunk, float32[2 or 3], and a function that returns the gradient of the last of them, made of
    what is there."""
    logits_BTV, pull = jax.vjp(functools.partial(logits, dtype=compute_dtype), hidden_BTE, unembedding_VE)
    top_BT = jnp.max(logits_BTV, axis=-1)
    exp_BTV = jnp.exp(logits_BTV - top_BT[..., None])
    total_BT = jnp.sum(exp_BTV, axis=-1)
    log_z_BT = jnp.log(total_BT) + top_BT
    chosen_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    sums = [jnp.sum(jnp.where(chosen_BT >= top_BT, weights_BT, 0.0)), jnp.sum(weights_BT * (log_z_BT - chosen_BT))]
    if label_smoothing or z_loss:
        aim_BT = (1 - label_smoothing) * chosen_BT + label_smoothing * jnp.mean(logits_BTV, axis=-1)
        sums.append(jnp.sum(weights_BT * (log_z_BT - aim_BT + z_loss * jnp.square(log_z_BT))))

    def gradient():
        # Softmax minus aim; a comparison in place of a scatter splits along a vocabulary that is sharded.
        is_target_BTV = targets_BT[..., None] == jax.lax.broadcasted_iota(targets_BT.dtype, logits_BTV.shape, 2)
        aim_BTV = jnp.where(is_target_BTV, 1 - label_smoothing, 0.0) + label_smoothing / logits_BTV.shape[-1]
        p_BTV = exp_BTV * ((1 + 2 * z_loss * log_z_BT) / total_BT)[..., None]
        return pull(weights_BT[..., None] * (p_BTV - aim_BTV))

    return jnp.stack(sums), gradient


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
