"""One update, as a pure function of state and batch.

A batch has parts, most often one ("train"). A part holds, for B questions with G responses each: prompt[B, P] int32,
prompt_mask[B, P] bool, inputs[B, G, R] int32, targets[B, G, R] int32, weights[B, G, R] float32 (1 on response tokens,
0 on padding). The loss of a batch is the weighted sum of the mean losses of its parts, each over its own tokens.

Where responses are packed, a part also holds positions[B, G, R] int32, and where questions are, questions[B, G, R] and
prompt_questions[B, P] int32 (models/packed_masks.py): B and G then count rows. A response that a visit shows several
times may be there once, with so many times the weight.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from scotd_jax.models.api import Model, Params
from scotd_jax.models.forward_options import ForwardOptions
from scotd_jax.training.losses import Weighted, response_loss
from scotd_jax.training.trainable import combine

Part = Mapping[str, jax.Array]
Batch = Mapping[str, Part]
ONE_PART = (("train", 1.0),)
Metrics = dict[str, jax.Array]
LOGITS_BYTES = 256 * 2**20  # of float32 logits that may exist at one time on one batch shard


class TrainState(NamedTuple):
    """All that an update reads and writes. `step` is int32[], the number of updates made.

    `params` are the numbers that learn, `frozen` those that do not (trainable.py); None where all of them learn.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    frozen: Params | None = None


def make_loss(
    model: Model,
    chunk: int = 0,
    *,
    options: ForwardOptions = ForwardOptions(),
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Callable[..., tuple[Weighted, ...]]:
    """fn(params, part, key=None) -> (cross entropy, correct tokens), each a weighted sum over response tokens, and the
    objective after them where it is another number (`response_loss`). With dropout the key names the masks.

    The prompt is computed once per question and shared by its G responses. `chunk`, `label_smoothing` and `z_loss` as
    in `response_loss`.
    """

    def loss(params: Params, batch: Part, key: jax.Array | None = None) -> tuple[Weighted, ...]:
        hidden_BGRE = hidden(model, params, batch, dataclasses.replace(options, dropout_key=key))
        return response_loss(
            hidden_BGRE,
            model.unembedding(params),
            batch["targets"],
            batch["weights"],
            model.precision.compute,
            chunk,
            label_smoothing,
            z_loss,
        )

    return loss


def hidden(model: Model, params: Params, batch: Part, options: ForwardOptions = ForwardOptions()) -> jax.Array:
    """[B, G, R, E], ready for the output matrix."""
    prompts = {"questions": batch["prompt_questions"]} if "prompt_questions" in batch else {}
    context = model.prefill(params, batch["prompt"], batch["prompt_mask"], **prompts, options=options)
    packed = {"positions": batch["positions"]} if "positions" in batch else {}
    if prompts:
        packed["questions"] = batch["prompt_questions"], batch["questions"]
    return model.extend(params, context, batch["inputs"], **packed, options=options)[0]


def shown(part: Part) -> jax.Array:
    """How many responses a part shows: the weights of their first tokens, since a packed one may stand for several."""
    places = part["positions"] if "positions" in part else jnp.arange(part["inputs"].shape[2])[None, None]
    return jnp.sum(jnp.where(places == 0, part["weights"], 0.0))


def chunk_tokens(vocab_size: int, batch_shards: int) -> int:
    """Tokens of a batch whose logits may exist at one time, so that each batch shard holds at most LOGITS_BYTES."""
    return max(1, LOGITS_BYTES // (4 * vocab_size)) * batch_shards


def make_train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    microbatches: int = 1,
    chunk: int = 0,
    parts: Sequence[tuple[str, float]] = ONE_PART,
    *,
    options: ForwardOptions = ForwardOptions(),
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """step(state, batch) -> (state, metrics), to be jitted with the state donated. With dropout it is
    step(state, batch, seed), seed being uint32[].

    `parts` are the names of a batch's parts and the weights of their mean losses. The batch is cut into `microbatches`
    equal parts, one after another in memory; every token's weight is a share of the whole batch beforehand, so their
    sums add up and the update does not depend on the cut. Metrics are float32 scalars: loss (nats per response token,
    summed over parts by weight), token_accuracy, tokens, rationales, grad_norm (before clipping) and learning_rate;
    with several parts also loss_PART, each part's mean; with label smoothing or z-loss also objective, which is what is
    optimized.

    Masks of dropout are named by seed, update, micro-batch and part, so an update that is made again draws them again.
    """
    loss_fn = make_loss(model, chunk, options=options, label_smoothing=label_smoothing, z_loss=z_loss)
    objective = label_smoothing > 0 or z_loss > 0  # optimizes another number than the cross entropy

    def sums(state: TrainState, batch: Batch, key: jax.Array | None) -> tuple[Params, dict[str, tuple[jax.Array, ...]]]:
        def total(learns):
            params = combine(learns, state.frozen)
            keys = [None if key is None else jax.random.fold_in(key, i) for i in range(len(parts))]
            said = {
                name: tuple(each.sum for each in loss_fn(params, batch[name], part_key))
                for (name, _), part_key in zip(parts, keys, strict=True)
            }
            return sum(each[2 if objective else 0] for each in said.values()), said

        return jax.grad(total, has_aux=True)(state.params)

    def step(state: TrainState, batch: Batch, seed: jax.Array | None = None) -> tuple[TrainState, Metrics]:
        tokens = {name: jnp.sum(batch[name]["weights"]) for name, _ in parts}
        shares = {
            name: {**batch[name], "weights": Weighted(weight * batch[name]["weights"], tokens[name]).mean()}
            for name, weight in parts
        }
        keys = mask_keys(seed, state.step, microbatches) if options.dropout > 0 else None
        if microbatches == 1:
            grads, said = sums(state, shares, None if keys is None else keys[0])
        else:
            pieces = jax.tree.map(lambda array: split(array, microbatches), shares)

            def add(carry, piece):
                return jax.tree.map(jnp.add, carry, sums(state, *piece)), None

            zero = {name: (jnp.zeros(()),) * (3 if objective else 2) for name, _ in parts}
            (grads, said), _ = jax.lax.scan(add, (jax.tree.map(jnp.zeros_like, state.params), zero), (pieces, keys))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": sum(loss for loss, *_ in said.values()),
            "token_accuracy": sum(correct for _, correct, *_ in said.values()) / sum(weight for _, weight in parts),
            "tokens": sum(tokens.values()),
            "rationales": sum(shown(batch[name]) for name, _ in parts),
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
        }
        if objective:
            metrics["objective"] = sum(each[2] for each in said.values())
        if len(parts) > 1:
            metrics |= {f"loss_{name}": said[name][0] / weight for name, weight in parts}
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.frozen), metrics

    return step


def mask_keys(seed: jax.Array, step: jax.Array, microbatches: int) -> jax.Array:
    """The keys of dropout of one update, one per micro-batch. They depend on the three numbers alone."""
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(microbatches))


def split(array: jax.Array, parts: int) -> jax.Array:
    """[B, ...] -> [parts, B / parts, ...]; part i is rows i, i + parts, ...

    Taking every parts-th row leaves each row on its device when B is sharded; consecutive rows would have to move.
    """
    rows = array.reshape(array.shape[0] // parts, parts, *array.shape[1:])
    return jnp.moveaxis(rows, 1, 0)
