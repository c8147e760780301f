"""The loss on response tokens, computed in chunks, so that the logits of a whole batch never exist at once.

Losses are (sum, weight) pairs, never means: they add up over chunks, micro-batches, hosts and batches, and are divided
once, at the end. Padding and the way a batch is split therefore never change a result.

Letters besides those of models/api.py: C chunks of T tokens per question.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scotd_jax.models.layers import logits


class WeightedSum(NamedTuple):
    """A sum of weighted terms and the sum of their weights, both float32 scalars."""

    sum: jax.Array
    weight: jax.Array

    def mean(self) -> jax.Array:
        """The weighted mean; 0 if the weight is 0."""
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
) -> tuple[WeightedSum, ...]:
    """Computes cross entropy and number of correct tokens, both weighted, and the objective if it differs.

    Logits exist for about `chunk` tokens at a time and are computed once: the forward pass also computes the gradients
    of a chunk, before it drops the logits. Chunks split the tokens of every question, so that a batch that is sharded
    along B does not move between devices. Only the sum that is optimized has a derivative.

    Args:
      hidden_BGRE: last hidden states, ready for the output matrix.
      unembedding_VE: output matrix.
      targets_BGR: token ids to predict.
      weights_BGR: weight of each token, 0 on padding.
      compute_dtype: dtype of the matmul inputs; logits and sums are float32.
      chunk: tokens of the whole batch whose logits may exist at a time; 0 for all.
      label_smoothing: share of the target probability that is spread evenly over the vocabulary (Szegedy et al., arXiv
        1512.00567, section 7).
      z_loss: factor of log(Z) ** 2, where Z is the sum of the exponentials of the logits (PaLM, arXiv 2204.02311,
        section 5).

    Returns:
      The cross entropy in nats and the number of targets that have the largest logit, counting ties. If
      `label_smoothing` or `z_loss` is not 0, also the objective: the cross entropy against the smoothed targets plus
      the z-loss. It is optimized in place of the cross entropy.
    """
    B, G, R, E = hidden_BGRE.shape
    tokens = G * R
    num_chunks = 1 if chunk <= 0 else -(-tokens // min(tokens, max(1, chunk // B)))
    size = -(-tokens // num_chunks)

    def split(array: jax.Array, *width: int) -> jax.Array:
        rows = array.reshape(B, tokens, *width)
        rows = jnp.pad(rows, [(0, 0), (0, num_chunks * size - tokens)] + [(0, 0)] * len(width))
        return jnp.moveaxis(rows.reshape(B, num_chunks, size, *width), 1, 0)

    terms = functools.partial(_terms, compute_dtype, label_smoothing, z_loss)
    sums = _sum_over_chunks(terms, split(hidden_BGRE, E), unembedding_VE, split(targets_BGR), split(weights_BGR))
    weight = jnp.sum(weights_BGR)
    # `_terms` puts the optimized sum last; callers get the loss first.
    correct, loss, *objective = (WeightedSum(sum, weight) for sum in sums)
    return loss, correct, *objective


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum_over_chunks(terms, hidden_CBTE, unembedding_VE, targets_CBT, weights_CBT):
    """Adds the sums of `terms` over all chunks. Only the last sum has a derivative.

    Its gradient is linear in the cotangent. The forward pass can therefore compute it chunk by chunk for a cotangent of
    1, without storing logits, and the backward pass only scales it.
    """

    def body(total, piece):
        return total + terms(unembedding_VE, *piece)[0], None

    chunks = hidden_CBTE, targets_CBT, weights_CBT
    return jax.lax.scan(body, _zero_sums(terms, unembedding_VE, chunks), chunks)[0]


def _sum_over_chunks_forward(terms, hidden_CBTE, unembedding_VE, targets_CBT, weights_CBT):
    def body(carry, piece):
        total, d_unembedding_VE = carry
        sums, gradient = terms(unembedding_VE, *piece)
        d_hidden_BTE, d_chunk_VE = gradient()
        return (total + sums, d_unembedding_VE + d_chunk_VE), d_hidden_BTE

    chunks = hidden_CBTE, targets_CBT, weights_CBT
    init = _zero_sums(terms, unembedding_VE, chunks), jnp.zeros_like(unembedding_VE)
    (sums, d_unembedding_VE), d_hidden_CBTE = jax.lax.scan(body, init, chunks)
    return sums, (d_hidden_CBTE, d_unembedding_VE)


def _sum_over_chunks_backward(terms, saved, cotangents):
    d_hidden_CBTE, d_unembedding_VE = saved
    return cotangents[-1] * d_hidden_CBTE, cotangents[-1] * d_unembedding_VE, None, None


_sum_over_chunks.defvjp(_sum_over_chunks_forward, _sum_over_chunks_backward)


def _zero_sums(terms, unembedding_VE, chunks):
    sums = jax.eval_shape(lambda *chunk: terms(unembedding_VE, *chunk)[0], *(chunk[0] for chunk in chunks))
    return jnp.zeros(sums.shape, sums.dtype)


def _terms(compute_dtype, label_smoothing, z_loss, unembedding_VE, hidden_BTE, targets_BT, weights_BT):
    """The sums of one chunk, float32[2 or 3], and a function that returns the gradient of the last of them."""
    logits_BTV, logits_vjp = jax.vjp(functools.partial(logits, dtype=compute_dtype), hidden_BTE, unembedding_VE)
    max_BT = jnp.max(logits_BTV, axis=-1)
    exp_BTV = jnp.exp(logits_BTV - max_BT[..., None])
    total_BT = jnp.sum(exp_BTV, axis=-1)
    log_z_BT = jnp.log(total_BT) + max_BT
    target_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    sums = [jnp.sum(jnp.where(target_BT >= max_BT, weights_BT, 0.0)), jnp.sum(weights_BT * (log_z_BT - target_BT))]
    if label_smoothing or z_loss:
        smoothed_BT = (1 - label_smoothing) * target_BT + label_smoothing * jnp.mean(logits_BTV, axis=-1)
        sums.append(jnp.sum(weights_BT * (log_z_BT - smoothed_BT + z_loss * jnp.square(log_z_BT))))

    def gradient():
        # Softmax minus smoothed targets; the z-loss adds 2 * z_loss * log_z * softmax. Unlike a scatter, the comparison
        # with the targets shards along a sharded vocabulary.
        is_target_BTV = targets_BT[..., None] == jax.lax.broadcasted_iota(targets_BT.dtype, logits_BTV.shape, 2)
        smoothed_BTV = jnp.where(is_target_BTV, 1 - label_smoothing, 0.0) + label_smoothing / logits_BTV.shape[-1]
        p_BTV = exp_BTV * ((1 + 2 * z_loss * log_z_BT) / total_BT)[..., None]
        return logits_vjp(weights_BT[..., None] * (p_BTV - smoothed_BTV))

    return jnp.stack(sums), gradient


def response_loss_reference(
    hidden_BGRE: Float[Array, "B G R E"],
    unembedding_VE: Float[Array, "V E"],
    targets_BGR: Int[Array, "B G R"],
    weights_BGR: Float[Array, "B G R"],
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[WeightedSum, ...]:
    """Computes what `response_loss` returns, in float32 and without chunks."""
    logits_BGRV = hidden_BGRE.astype(jnp.float32) @ unembedding_VE.T
    log_p_BGRV = jax.nn.log_softmax(logits_BGRV)
    loss_BGR = -jnp.take_along_axis(log_p_BGRV, targets_BGR[..., None], axis=-1)[..., 0]
    correct_BGR = jnp.argmax(log_p_BGRV, axis=-1) == targets_BGR
    terms = [loss_BGR, correct_BGR.astype(jnp.float32)]
    if label_smoothing or z_loss:
        V = unembedding_VE.shape[0]
        smoothed_BGRV = (1 - label_smoothing) * jax.nn.one_hot(targets_BGR, V) + label_smoothing / V
        log_z_BGR = jax.nn.logsumexp(logits_BGRV, axis=-1)
        terms.append(-jnp.sum(smoothed_BGRV * log_p_BGRV, axis=-1) + z_loss * log_z_BGR**2)
    return tuple(WeightedSum(jnp.sum(weights_BGR * term), jnp.sum(weights_BGR)) for term in terms)
