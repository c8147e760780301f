"""One training update, as a pure function of state and batch.

A batch has parts, usually one ("train"). For B questions with G responses each, a part has prompt[B, P] int32,
prompt_mask[B, P] bool, inputs[B, G, R] int32, targets[B, G, R] int32 and weights[B, G, R] float32 (1 on response
tokens, 0 on padding). The loss of a batch is the weighted sum of the mean losses of its parts, each over the tokens of
that part.

If responses are packed, a part also has positions[B, G, R] int32, and if questions are packed, questions[B, G, R] and
prompt_questions[B, P] int32 (models/packed_masks.py); B and G then count rows. A response that is drawn several times
may be stored once, with its weights multiplied by the number of draws.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, UInt32

from scotd_jax.models.api import LanguageModel, Params
from scotd_jax.models.forward_options import ForwardOptions
from scotd_jax.training.losses import WeightedSum, response_loss
from scotd_jax.training.trainable import combine

BatchPart = Mapping[str, jax.Array]
TrainBatch = Mapping[str, BatchPart]
Metrics = dict[str, Any]  # scalar arrays
LossSums = Mapping[str, tuple[jax.Array, ...]]  # part name -> sums of `response_loss`

ONE_PART = (("train", 1.0),)
# Bytes of float32 logits per batch shard at a time. On two CPU cores, loss and gradient of 2,688 tokens with OPT-125M's
# output matrix took 4.2 s of processor time with 128 or 256 MiB, 4.6 s with 32 or 512 MiB and 5.3 s with 16 MiB.
MAX_LOGITS_BYTES = 256 * 2**20


class TrainState(NamedTuple):
    """Everything that an update reads and writes.

    Attributes:
      step: int32[], number of updates made.
      params: trainable parameters (trainable.py).
      opt_state: optimizer state.
      frozen: frozen parameters; None if all parameters are trainable.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    frozen: Params | None = None


def make_train_step(
    model: LanguageModel,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    microbatches: int = 1,
    chunk: int = 0,
    parts: Sequence[tuple[str, float]] = ONE_PART,
    *,
    options: ForwardOptions = ForwardOptions(),
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    skips_nonfinite: bool = False,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns step(state, batch) -> (state, metrics), or with dropout step(state, batch, seed) with a uint32[] seed.

    The batch is split into micro-batches of equal size, which are processed one after another. Before the split, the
    token weights of each part are normalized over the whole batch, so sums add up and the update does not depend on the
    split. Dropout masks depend on seed, update, micro-batch and part, so a repeated update draws the same masks.

    Args:
      model: the model to train.
      optimizer: gradient transformation.
      schedule: learning rate by step, for the metrics.
      microbatches: number of micro-batches.
      chunk: tokens whose logits may exist at a time, as in `response_loss`.
      parts: names of the parts of a batch, and the weight of each one's mean loss.
      options: options of the forward pass, without the dropout key.
      label_smoothing: as in `response_loss`.
      z_loss: as in `response_loss`.
      skips_nonfinite: whether an update whose loss or gradient is not finite leaves parameters and optimizer unchanged.

    Returns:
      The step function, to be jitted with a donated state. Its metrics are float32 scalars: loss (nats per response
      token, the weighted sum over parts), token_accuracy, tokens, rationales, grad_norm (before clipping), param_norm
      (of the trainable parameters after the update) and learning_rate. With several parts there is also loss_PART, the
      mean loss of each; with label smoothing or z-loss also objective, which is optimized in place of the loss.
    """
    loss_fn = make_loss_fn(model, chunk, options=options, label_smoothing=label_smoothing, z_loss=z_loss)
    has_objective = label_smoothing > 0 or z_loss > 0
    optimized = 2 if has_objective else 0  # index into the sums of `response_loss`

    def grads_and_sums(state: TrainState, batch: TrainBatch, key: jax.Array | None) -> tuple[Params, LossSums]:
        """Gradients and loss sums of one micro-batch."""

        def total(trainable):
            params = combine(trainable, state.frozen)
            keys = [None if key is None else jax.random.fold_in(key, i) for i in range(len(parts))]
            sums = {
                name: tuple(term.sum for term in loss_fn(params, batch[name], part_key))
                for (name, _), part_key in zip(parts, keys, strict=True)
            }
            return sum(part_sums[optimized] for part_sums in sums.values()), sums

        return jax.grad(total, has_aux=True)(state.params)

    def accumulate(state: TrainState, batch: TrainBatch, keys: jax.Array | None) -> tuple[Params, LossSums]:
        """Gradients and loss sums of the whole batch."""
        if microbatches == 1:
            return grads_and_sums(state, batch, None if keys is None else keys[0])
        pieces = jax.tree.map(lambda array: split_microbatches(array, microbatches), batch)

        def add(carry, piece):
            return jax.tree.map(jnp.add, carry, grads_and_sums(state, *piece)), None

        zero_sums = {name: (jnp.zeros(()),) * (3 if has_objective else 2) for name, _ in parts}
        init = jax.tree.map(jnp.zeros_like, state.params), zero_sums
        return jax.lax.scan(add, init, (pieces, keys))[0]

    def step(state: TrainState, batch: TrainBatch, seed: jax.Array | None = None) -> tuple[TrainState, Metrics]:
        tokens = {name: jnp.sum(batch[name]["weights"]) for name, _ in parts}
        # Token weights of a part add up to the part's weight; `mean` avoids 0 / 0 for a part without tokens.
        shares = {
            name: {**batch[name], "weights": WeightedSum(weight * batch[name]["weights"], tokens[name]).mean()}
            for name, weight in parts
        }
        keys = None
        if options.dropout > 0:
            assert seed is not None, "dropout needs a seed"
            keys = dropout_keys(seed, state.step, microbatches)
        grads, sums = accumulate(state, shares, keys)
        grad_norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = _loss_metrics(sums, parts) | {
            "tokens": sum(tokens.values()),
            "rationales": sum(count_responses(batch[name]) for name, _ in parts),
            "grad_norm": grad_norm,
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
        }
        params = optax.apply_updates(state.params, updates)
        if skips_nonfinite:
            is_finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm)
            before = state.params, state.opt_state
            params, opt_state = jax.tree.map(
                lambda new, old: jnp.where(is_finite, new, old), (params, opt_state), before
            )
        metrics["param_norm"] = optax.tree.norm(params)
        return TrainState(state.step + 1, params, opt_state, state.frozen), metrics

    return step


def _loss_metrics(sums: LossSums, parts: Sequence[tuple[str, float]]) -> Metrics:
    """Metrics from loss sums whose token weights are shares of the batch."""
    metrics = {
        "loss": sum(loss for loss, *_ in sums.values()),
        "token_accuracy": sum(correct for _, correct, *_ in sums.values()) / sum(weight for _, weight in parts),
    }
    if all(len(part_sums) == 3 for part_sums in sums.values()):
        metrics["objective"] = sum(objective for _, _, objective in sums.values())
    if len(parts) > 1:
        metrics |= {f"loss_{name}": sums[name][0] / weight for name, weight in parts}
    return metrics


def make_loss_fn(
    model: LanguageModel,
    chunk: int = 0,
    *,
    options: ForwardOptions = ForwardOptions(),
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Callable[..., tuple[WeightedSum, ...]]:
    """Returns loss(params, part, dropout_key=None), which computes the sums of `response_loss` on a part of a batch.

    The prompt is computed once per question and shared by its G responses.

    Args:
      model: the model to train.
      chunk: tokens whose logits may exist at a time, as in `response_loss`.
      options: options of the forward pass, without the dropout key.
      label_smoothing: as in `response_loss`.
      z_loss: as in `response_loss`.
    """

    def loss(params: Params, part: BatchPart, dropout_key: jax.Array | None = None) -> tuple[WeightedSum, ...]:
        hidden_BGRE = hidden_states(model, params, part, dataclasses.replace(options, dropout_key=dropout_key))
        return response_loss(
            hidden_BGRE,
            model.unembedding(params),
            part["targets"],
            part["weights"],
            model.precision.compute,
            chunk,
            label_smoothing,
            z_loss,
        )

    return loss


def hidden_states(
    model: LanguageModel, params: Params, part: BatchPart, options: ForwardOptions = ForwardOptions()
) -> Float[Array, "B G R E"]:
    """Runs the model on a part of a batch; the result is ready for the output matrix."""
    prompt_packing = {"questions": part["prompt_questions"]} if "prompt_questions" in part else {}
    context = model.prefill(params, part["prompt"], part["prompt_mask"], **prompt_packing, options=options)
    packing: dict[str, Any] = {"positions": part["positions"]} if "positions" in part else {}
    if prompt_packing:
        packing["questions"] = part["prompt_questions"], part["questions"]
    return model.extend(params, context, part["inputs"], **packing, options=options)[0]


def count_responses(part: BatchPart) -> Float[Array, ""]:
    """Returns the number of drawn responses: the sum of the weights of the first tokens of those that are stored."""
    positions = part["positions"] if "positions" in part else jnp.arange(part["inputs"].shape[2])[None, None]
    return jnp.sum(jnp.where(positions == 0, part["weights"], 0.0))


def logits_chunk_tokens(vocab_size: int, batch_shards: int) -> int:
    """Returns the number of tokens whose logits may exist at a time, so that a batch shard holds MAX_LOGITS_BYTES."""
    return max(1, MAX_LOGITS_BYTES // (4 * vocab_size)) * batch_shards


def dropout_keys(seed: UInt32[Array, ""], step: Int[Array, ""], microbatches: int) -> Key[Array, " microbatches"]:
    """Returns the dropout keys of one update, one per micro-batch; a function of the three numbers alone."""
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(microbatches))


def split_microbatches(array: jax.Array, microbatches: int) -> jax.Array:
    """Reshapes [B, ...] to [microbatches, B / microbatches, ...]; micro-batch i has rows i, i + microbatches, ...

    With strided rows every row of a sharded batch stays on its device; consecutive rows would have to move.
    """
    rows = array.reshape(array.shape[0] // microbatches, microbatches, *array.shape[1:])
    return jnp.moveaxis(rows, 1, 0)
