"""Log-likelihood of candidate responses, for example of all answer choices of a question.

As in training, a prompt is computed once and shared by its C candidates. A prefix that all candidates share, such as a
generated rationale, is not scored: it would add the same number to each.

Letters of shapes: B prompts, C candidates per prompt, P prompt tokens, R decoder inputs (prefix and candidate), A
scored tokens per candidate.
"""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from scotd_jax.distributed.mesh import batch_shards
from scotd_jax.distributed.sharding import batch_sharding, fetch, put_equal
from scotd_jax.errors import InputError
from scotd_jax.layout import pad_rows, round_up, split_prompt
from scotd_jax.models.api import LanguageModel, Params
from scotd_jax.models.layers import logits
from scotd_jax.models.position_table import check_positions


@dataclasses.dataclass(frozen=True)
class Candidates:
    """A prompt and the responses to compare after it.

    Attributes:
      key: identifies the result.
      prompt_ids: token ids of the whole prompt.
      responses: token ids of each response after the prefix, including its end token.
      prefix_ids: token ids with which all responses begin, such as a rationale; they are not scored.
    """

    key: Hashable
    prompt_ids: Sequence[int]
    responses: Sequence[Sequence[int]]
    prefix_ids: Sequence[int] = ()


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
      bucket: prompts and prefixes are padded to a multiple of this many tokens; each padded length is compiled once.
      mesh: devices over which prompts are spread.

    Yields:
      One list of (key, log-probabilities in nats, float32[number of responses]) per batch.

    Raises:
      InputError: if a prompt has no responses, a response has no tokens, or both do not fit the model's positions.
    """
    items = list(candidates)
    A = round_up(max((len(response) for item in items for response in item.responses), default=1), 8)
    score = _compiled_score_fn(model)
    for batch, arrays in iter_batches(model, items, lambda _: A, batch_size=batch_size, bucket=bucket, mesh=mesh):
        scores = fetch(score(params, *arrays))
        yield [(item.key, row[: len(item.responses)]) for item, row in zip(batch, scores, strict=False)]


def iter_batches(
    model: LanguageModel,
    candidates: Iterable[Candidates],
    max_tokens: Callable[[Candidates], int],
    *,
    batch_size: int,
    bucket: int,
    mesh: Mesh | None,
) -> Iterator[tuple[list[Candidates], tuple[Any, ...]]]:
    """Groups prompts by padded length and yields the arguments of the score functions, batch by batch.

    Args:
      model: the model that scores.
      candidates: prompts with their responses.
      max_tokens: A, the number of tokens to which the responses of a prompt are padded.
      batch_size: prompts per batch, see `score_candidates`.
      bucket: see `score_candidates`.
      mesh: see `score_candidates`.

    Yields:
      The prompts of a batch, and (prompt, mask, inputs, first, targets, real), see `hidden_of_targets`.

    Raises:
      InputError: as `score_candidates`.
    """
    # A decoder-only model prefills the prefix with the prompt. An encoder-decoder model feeds it to the decoder.
    items = [_with_prefix_in_prompt(item) if model.start_token is None else item for item in candidates]
    if not items:
        return
    for item in items:
        _check_item(model, item)
    B = round_up(batch_size, 1 if mesh is None else batch_shards(mesh))
    C = max(len(item.responses) for item in items)
    buckets: dict[tuple[int, int, int], list[Candidates]] = defaultdict(list)
    for item in items:
        prompt, _ = split_prompt(item.prompt_ids, model.start_token)
        prefix_length = round_up(len(item.prefix_ids), bucket) if item.prefix_ids else 0
        A = max_tokens(item)
        buckets[round_up(len(prompt), bucket), prefix_length + A, A].append(item)
    for (P, R, A), group in sorted(buckets.items(), reverse=True):
        for begin in range(0, len(group), B):
            batch = group[begin : begin + B]
            arrays = _batch_arrays(batch, model.start_token, B, C, R, A, P)
            if mesh is not None:
                arrays = put_equal(arrays, batch_sharding(mesh))
            yield batch, arrays


def _with_prefix_in_prompt(item: Candidates) -> Candidates:
    return dataclasses.replace(item, prompt_ids=[*item.prompt_ids, *item.prefix_ids], prefix_ids=())


def _check_item(model: LanguageModel, item: Candidates) -> None:
    if not item.responses or not all(item.responses):  # the log-probability of no tokens would be the highest, 0
        raise InputError(f"{item.key}: expected responses of at least one token each, found {item.responses!r:.60}")
    longest = max(map(len, item.responses))
    check_positions(
        model.config,
        len(item.prompt_ids) + longest,
        f"{item.key}: {len(item.prompt_ids)} tokens of prompt and rationale, and {longest} of a choice,",
        "lower max_new_tokens",
    )


def make_score_fn(model: LanguageModel) -> Callable[..., Float[Array, "B C"]]:
    """Returns a function that computes the log-probability of every candidate.

    Its arguments are (params, prompt[B, P], mask[B, P], inputs[B, C, R], first[B], targets[B, C, A], real[B, C, A]).
    Position first[b] + a of the inputs predicts targets[b, c, a], and `real` is False on padding. The function returns
    the natural log-probability of each candidate, [B, C]. Logits exist for one position at a time.
    """

    def score(
        params: Params,
        prompt: Int[Array, "B P"],
        mask: Bool[Array, "B P"],
        inputs: Int[Array, "B C R"],
        first: Int[Array, " B"],
        targets: Int[Array, "B C A"],
        real: Bool[Array, "B C A"],
    ) -> Float[Array, "B C"]:
        hidden = hidden_of_targets(model, params, prompt, mask, inputs, first, targets)
        unembedding = model.unembedding(params)

        def add_position(total_BC, position_arrays):
            hidden_BCE, target_BC, real_BC = position_arrays
            log_p_BCV = jax.nn.log_softmax(logits(hidden_BCE, unembedding, model.precision.compute))
            target_log_p_BC = jnp.take_along_axis(log_p_BCV, target_BC[..., None], axis=-1)[..., 0]
            return total_BC + jnp.where(real_BC, target_log_p_BC, 0.0), None

        positions = jax.tree.map(lambda array: jnp.moveaxis(array, 2, 0), (hidden, targets, real))
        return jax.lax.scan(add_position, jnp.zeros(inputs.shape[:2], jnp.float32), positions)[0]

    return score


def hidden_of_targets(
    model: LanguageModel,
    params: Params,
    prompt: Int[Array, "B P"],
    mask: Bool[Array, "B P"],
    inputs: Int[Array, "B C R"],
    first: Int[Array, " B"],
    targets: Int[Array, "B C A"],
) -> Float[Array, "B C A E"]:
    """Returns the hidden states that predict the targets: position first[b] + a of the inputs predicts target a."""
    hidden, _ = model.extend(params, model.prefill(params, prompt, mask), inputs)
    if inputs.shape[2] > targets.shape[2]:
        positions_BA = first[:, None] + jnp.arange(targets.shape[2])[None]
        hidden = jnp.take_along_axis(hidden, positions_BA[:, None, :, None], axis=2)
    return hidden


@functools.lru_cache(maxsize=32)
def _compiled_score_fn(model: LanguageModel) -> Callable[..., Float[Array, "B C"]]:
    return jax.jit(make_score_fn(model))


def _batch_arrays(
    batch: Sequence[Candidates], start_token: int | None, B: int, C: int, R: int, A: int, P: int
) -> tuple[np.ndarray, ...]:
    """The arguments of the score function after `params`, padded to the sizes of the batch."""
    splits = [split_prompt(item.prompt_ids, start_token) for item in batch]
    prompt, mask = pad_rows([prefix for prefix, _ in splits] + [[]] * (B - len(batch)), P)
    inputs: list[Sequence[int]] = []
    targets: list[Sequence[int]] = []
    for item, (_, start) in zip(batch, splits, strict=True):
        padding: list[Sequence[int]] = [[]] * (C - len(item.responses))
        targets += [*item.responses, *padding]
        inputs += [[start, *item.prefix_ids, *response[:-1]] for response in item.responses] + padding
    empty: list[Sequence[int]] = [[]] * (B * C - len(targets))
    target, real = pad_rows(targets + empty, A)
    first = np.zeros(B, np.int32)
    first[: len(batch)] = [len(item.prefix_ids) for item in batch]
    inputs_BCR = pad_rows(inputs + empty, R)[0].reshape(B, C, R)
    return prompt, mask, inputs_BCR, first, target.reshape(B, C, A), real.reshape(B, C, A)
