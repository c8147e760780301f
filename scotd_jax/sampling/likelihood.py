"""Log-likelihood of candidate responses, for example of all answer choices of a question.

As in training, a prompt is computed once and shared by its C candidates.
"""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from scotd_jax.distributed.mesh import batch_shards
from scotd_jax.distributed.sharding import batch_sharding
from scotd_jax.layout import pad_rows, round_up, split_prompt
from scotd_jax.models.api import LanguageModel, Params
from scotd_jax.models.layers import logits


@dataclasses.dataclass(frozen=True)
class Candidates:
    """A prompt and the responses to compare after it.

    Attributes:
      key: identifies the result.
      prompt_ids: token ids of the whole prompt.
      responses: token ids of each response, including its end token.
    """

    key: Hashable
    prompt_ids: Sequence[int]
    responses: Sequence[Sequence[int]]


def score_candidates(
    model: LanguageModel,
    params: Params,
    candidates: Iterable[Candidates],
    *,
    batch_size: int,
    bucket: int,
    mesh: Mesh | None = None,
) -> Iterator[list[tuple[Hashable, np.ndarray]]]:
    """Scores every response of every prompt.

    Args:
      model: the model that scores.
      params: its parameters, sharded by the caller if there is a mesh.
      candidates: prompts with their responses.
      batch_size: prompts per batch, rounded up to the batch shards of the mesh.
      bucket: prompts are padded to a multiple of this many tokens; each padded length is compiled once.
      mesh: devices over which prompts are spread.

    Yields:
      One list of (key, log-probabilities in nats, float32[number of responses]) per batch.
    """
    candidates = list(candidates)
    if not candidates:
        return
    B = round_up(batch_size, 1 if mesh is None else batch_shards(mesh))
    C = max(len(item.responses) for item in candidates)
    R = round_up(max(len(response) for item in candidates for response in item.responses), 8)
    buckets: dict[int, list[Candidates]] = defaultdict(list)
    for item in candidates:
        prefix, _ = split_prompt(item.prompt_ids, model.start_token)
        buckets[round_up(len(prefix), bucket)].append(item)
    score = _compiled_score_fn(model)
    for P, group in sorted(buckets.items(), reverse=True):
        for begin in range(0, len(group), B):
            batch = group[begin : begin + B]
            arrays = _batch_arrays(batch, model.start_token, B, C, R, P)
            if mesh is not None:
                arrays = jax.device_put(arrays, batch_sharding(mesh))
            scores = np.asarray(score(params, *arrays))
            yield [(item.key, row[: len(item.responses)]) for item, row in zip(batch, scores, strict=False)]


def make_score_fn(model: LanguageModel) -> Callable[..., Float[Array, "B C"]]:
    """Returns a function that computes the log-probability of every candidate.

    Its arguments are (params, prompt[B, P], mask[B, P], inputs[B, C, R], targets[B, C, R], real[B, C, R]); its result,
    [B, C], is the natural log-probability of the real target tokens. Logits exist for one position at a time.
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

        def add_position(total_BC, position_arrays):
            hidden_BCE, target_BC, real_BC = position_arrays
            log_p_BCV = jax.nn.log_softmax(logits(hidden_BCE, unembedding, model.precision.compute))
            target_log_p_BC = jnp.take_along_axis(log_p_BCV, target_BC[..., None], axis=-1)[..., 0]
            return total_BC + jnp.where(real_BC, target_log_p_BC, 0.0), None

        positions = jax.tree.map(lambda array: jnp.moveaxis(array, 2, 0), (hidden, targets, real))
        return jax.lax.scan(add_position, jnp.zeros(inputs.shape[:2], jnp.float32), positions)[0]

    return score


@functools.lru_cache(maxsize=32)
def _compiled_score_fn(model: LanguageModel) -> Callable[..., Float[Array, "B C"]]:
    return jax.jit(make_score_fn(model))


def _batch_arrays(batch: Sequence[Candidates], start_token: int | None, B: int, C: int, R: int, P: int):
    """The arguments of the score function after `params`, padded to the sizes of the batch."""
    splits = [split_prompt(item.prompt_ids, start_token) for item in batch]
    prompt, mask = pad_rows([prefix for prefix, _ in splits] + [[]] * (B - len(batch)), P)
    inputs, targets = [], []
    for item, (_, start) in zip(batch, splits, strict=True):
        responses = [list(response) for response in item.responses] + [[]] * (C - len(item.responses))
        targets += responses
        inputs += [[start, *response[:-1]] for response in responses]
    targets += [[]] * (B * C - len(targets))
    inputs += [[]] * (B * C - len(inputs))
    target, real = pad_rows(targets, R)
    shape = (B, C, R)
    return prompt, mask, pad_rows(inputs, R)[0].reshape(shape), target.reshape(shape), real.reshape(shape)
