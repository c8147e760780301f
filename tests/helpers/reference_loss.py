"""Reference implementation of the loss on response tokens."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scotd_jax.training.losses import WeightedSum


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
