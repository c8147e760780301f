"""One update, as a pure function of state and batch.

A batch holds, for B questions with G responses each: prompt[B, P] int32, prompt_mask[B, P] bool,
inputs[B, G, R] int32, targets[B, G, R] int32, weights[B, G, R] float32 (1 on response tokens, 0 on padding).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from scotd_jax.models.api import Model, Params
from scotd_jax.training.losses import Weighted, response_loss

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
LOGITS_BYTES = 256 * 2**20  # of float32 logits that may exist at one time on one batch shard


class TrainState(NamedTuple):
    """All that an update reads and writes. `step` is int32[], the number of updates made."""

    step: jax.Array
    params: Params
    opt_state: Any


def make_loss(model: Model, chunk: int = 0) -> Callable[[Params, Batch], tuple[Weighted, Weighted]]:
    """fn(params, batch) -> (cross entropy, correct tokens), each a weighted sum over response tokens.

    The prompt is computed once per question and shared by its G responses. `chunk` as in `response_loss`.
    """

    def loss(params: Params, batch: Batch) -> tuple[Weighted, Weighted]:
        context = model.prefill(params, batch["prompt"], batch["prompt_mask"])
        hidden_BGRE, _ = model.extend(params, context, batch["inputs"])
        return response_loss(
            hidden_BGRE,
            model.unembedding(params),
            batch["targets"],
            batch["weights"],
            model.precision.compute,
            chunk,
        )

    return loss


def chunk_tokens(vocab_size: int, batch_shards: int) -> int:
    """Tokens of a batch whose logits may exist at one time, so that each batch shard holds at most LOGITS_BYTES."""
    return max(1, LOGITS_BYTES // (4 * vocab_size)) * batch_shards


def make_train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    microbatches: int = 1,
    chunk: int = 0,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """step(state, batch) -> (state, metrics), to be jitted with the state donated.

    The batch is cut into `microbatches` equal parts, one after another in memory; their sums are added and divided
    once by the weight of the whole batch, so the update does not depend on the cut. Metrics are float32 scalars: loss
    (nats per response token), token_accuracy, tokens, grad_norm (before clipping) and learning_rate.
    """
    loss_fn = make_loss(model, chunk)

    def sums(params: Params, batch: Batch) -> tuple[Params, Weighted, Weighted]:
        def total(params):
            loss, correct = loss_fn(params, batch)
            return loss.sum, (loss, correct)

        grads, (loss, correct) = jax.grad(total, has_aux=True)(params)
        return grads, loss, correct

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if microbatches == 1:
            grads, loss, correct = sums(state.params, batch)
        else:
            parts = jax.tree.map(lambda array: split(array, microbatches), dict(batch))

            def add(carry, part):
                return jax.tree.map(jnp.add, carry, sums(state.params, part)), None

            zero = Weighted(jnp.zeros(()), jnp.zeros(()))
            start = jax.tree.map(jnp.zeros_like, state.params), zero, zero
            (grads, loss, correct), _ = jax.lax.scan(add, start, parts)
        grads = jax.tree.map(lambda grad: Weighted(grad, loss.weight).mean(), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": loss.mean(),
            "token_accuracy": correct.mean(),
            "tokens": loss.weight,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
        }
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state), metrics

    return step


def split(array: jax.Array, parts: int) -> jax.Array:
    """[B, ...] -> [parts, B / parts, ...]; part i is rows i, i + parts, ...

    Taking every parts-th row leaves each row on its device when B is sharded; consecutive rows would have to move.
    """
    rows = array.reshape(array.shape[0] // parts, parts, *array.shape[1:])
    return jnp.moveaxis(rows, 1, 0)
