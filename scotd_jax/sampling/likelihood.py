"""How likely a model finds each of a few given responses: the answers of a question, say, on the grouped layout.

The prompt is computed once and its C candidates are the G responses beside it, as in training. Nothing is drawn.
"""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from scotd_jax.distributed.mesh import batch_shards
from scotd_jax.distributed.sharding import batch_sharding
from scotd_jax.layout import pad_rows, round_up, split_prompt
from scotd_jax.models.api import Model, Params
from scotd_jax.models.layers import logits


@dataclasses.dataclass(frozen=True)
class Candidates:
    """A whole prompt and the responses, each with its end, that are to be compared after it."""

    name: object  # comes back with the result
    prompt_ids: Sequence[int]
    responses: Sequence[Sequence[int]]


def make_score(model: Model) -> Callable[..., Float[Array, "B C"]]:
    """score(params, prompt[B, P], mask[B, P], inputs[B, C, R], targets[B, C, R], real[B, C, R]) -> log p[B, C].

    Natural log-probability of the real target tokens of every candidate. Logits exist for one position at a time.
    """

    def score(
        params: Params,
        prompt: Int[Array, "B P"],
        mask: Bool[Array, "B P"],
        inputs: Int[Array, "B C R"],
        targets: Int[Array, "B C R"],
        real: Bool[Array, "B C R"],
    ) -> Float[Array, "B C"]:
        hidden, _ = model.extend(params, model.prefill(params, prompt, mask), inputs)
        unembedding = model.unembedding(params)

        def add(total_BC, position):
            hidden_BCE, target_BC, real_BC = position
            log_p_BCV = jax.nn.log_softmax(logits(hidden_BCE, unembedding, model.precision.compute))
            chosen_BC = jnp.take_along_axis(log_p_BCV, target_BC[..., None], axis=-1)[..., 0]
            return total_BC + jnp.where(real_BC, chosen_BC, 0.0), None

        positions = jax.tree.map(lambda array: jnp.moveaxis(array, 2, 0), (hidden, targets, real))
        return jax.lax.scan(add, jnp.zeros(inputs.shape[:2], jnp.float32), positions)[0]

    return score


def score_candidates(
    model: Model,
    params: Params,
    wanted: Iterable[Candidates],
    *,
    batch_size: int,
    bucket: int,
    mesh: Mesh | None = None,
) -> Iterator[list[tuple[object, np.ndarray]]]:
    """One list of (name, log-probabilities float32[C]) per batch. One compilation per multiple of `bucket` tokens."""
    wanted = list(wanted)
    if not wanted:
        return
    B = round_up(batch_size, 1 if mesh is None else batch_shards(mesh))
    C = max(len(each.responses) for each in wanted)
    R = round_up(max(len(response) for each in wanted for response in each.responses), 8)
    buckets: dict[int, list[Candidates]] = defaultdict(list)
    for each in wanted:
        prefix, _ = split_prompt(each.prompt_ids, model.start_token)
        buckets[round_up(len(prefix), bucket)].append(each)
    score = _compiled(model)
    for width, group in sorted(buckets.items(), reverse=True):
        for begin in range(0, len(group), B):
            batch = group[begin : begin + B]
            arrays = _arrays(batch, model.start_token, B, C, R, width)
            if mesh is not None:
                arrays = jax.device_put(arrays, batch_sharding(mesh))
            scores = np.asarray(score(params, *arrays))
            yield [(each.name, row[: len(each.responses)]) for each, row in zip(batch, scores, strict=False)]


def _arrays(batch: Sequence[Candidates], start_token: int | None, B: int, C: int, R: int, P: int):
    pairs = [split_prompt(each.prompt_ids, start_token) for each in batch]
    prompt, mask = pad_rows([prefix for prefix, _ in pairs] + [[]] * (B - len(batch)), P)
    inputs, targets = [], []
    for each, (_, start) in zip(batch, pairs, strict=True):
        responses = [list(response) for response in each.responses] + [[]] * (C - len(each.responses))
        targets += responses
        inputs += [[start, *response[:-1]] for response in responses]
    targets += [[]] * (B * C - len(targets))
    inputs += [[]] * (B * C - len(inputs))
    target, real = pad_rows(targets, R)
    shape = (B, C, R)
    return prompt, mask, pad_rows(inputs, R)[0].reshape(shape), target.reshape(shape), real.reshape(shape)


@functools.lru_cache(maxsize=32)
def _compiled(model: Model) -> Callable[..., Float[Array, "B C"]]:
    return jax.jit(make_score(model))
