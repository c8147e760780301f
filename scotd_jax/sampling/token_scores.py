"""Log-probability and rank of every token of given responses, for scores that are not a sum of log-probabilities.

As in `likelihood`, a prompt is computed once and shared by its responses, and logits exist for one position at a time.
Letters of shapes: see `likelihood`.
"""

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from scotd_jax.distributed.sharding import fetch
from scotd_jax.layout import round_up
from scotd_jax.models.api import LanguageModel, Params
from scotd_jax.models.layers import logits
from scotd_jax.sampling.likelihood import Candidates, hidden_of_targets, iter_batches


class TokenScores(NamedTuple):
    """Scores of the T tokens of a response.

    Attributes:
      log_p: natural log-probability of each token, float32[T].
      rank: 1 + the number of tokens with a higher logit, at most `max_rank`, int32[T].
    """

    log_p: np.ndarray
    rank: np.ndarray


def score_tokens(
    model: LanguageModel,
    params: Params,
    candidates: Iterable[Candidates],
    *,
    max_rank: int,
    batch_size: int,
    bucket: int,
    mesh: Mesh | None = None,
) -> Iterator[list[tuple[Hashable, list[TokenScores]]]]:
    """Scores every token of every response of every prompt.

    Args:
      model: the model that scores.
      params: its parameters, sharded by the caller if there is a mesh.
      candidates: prompts with their responses.
      max_rank: higher ranks are clipped to this one.
      batch_size: prompts per batch, rounded up to the batch shards of the mesh.
      bucket: prompts and responses are padded to a multiple of this many tokens; each pair of lengths is compiled once.
      mesh: devices over which prompts are spread.

    Yields:
      One list of (key, scores of each response) per batch.

    Raises:
      InputError: as `likelihood.score_candidates`.
    """

    def max_tokens(item: Candidates) -> int:
        return round_up(max(map(len, item.responses), default=1), bucket)

    score = _compiled_token_score_fn(model, max_rank)
    batches = iter_batches(model, candidates, max_tokens, batch_size=batch_size, bucket=bucket, mesh=mesh)
    for batch, arrays in batches:
        log_p_BCA, rank_BCA = fetch(score(params, *arrays))
        yield [
            (
                item.key,
                [
                    TokenScores(log_p_BCA[b, c, : len(r)], rank_BCA[b, c, : len(r)])
                    for c, r in enumerate(item.responses)
                ],
            )
            for b, item in enumerate(batch)
        ]


@functools.lru_cache(maxsize=32)
def _compiled_token_score_fn(model: LanguageModel, max_rank: int) -> Callable[..., tuple[Array, Array]]:
    return jax.jit(make_token_score_fn(model, max_rank))


def make_token_score_fn(model: LanguageModel, max_rank: int) -> Callable[..., tuple[Array, Array]]:
    """Returns a function that computes the log-probability and the clipped rank of every target token.

    Its arguments are those of the function of `likelihood.make_score_fn`. Values of padding are arbitrary.
    """

    def score(
        params: Params,
        prompt: Int[Array, "B P"],
        mask: Bool[Array, "B P"],
        inputs: Int[Array, "B C R"],
        first: Int[Array, " B"],
        targets: Int[Array, "B C A"],
        real: Bool[Array, "B C A"],
    ) -> tuple[Float[Array, "B C A"], Int[Array, "B C A"]]:
        del real
        hidden = hidden_of_targets(model, params, prompt, mask, inputs, first, targets)
        unembedding = model.unembedding(params)

        def score_position(_, position_arrays):
            hidden_BCE, target_BC = position_arrays
            logits_BCV = logits(hidden_BCE, unembedding, model.precision.compute)
            target_logit_BC1 = jnp.take_along_axis(logits_BCV, target_BC[..., None], axis=-1)
            log_p_BC = target_logit_BC1[..., 0] - jax.nn.logsumexp(logits_BCV, axis=-1)
            rank_BC = 1 + jnp.sum(logits_BCV > target_logit_BC1, axis=-1, dtype=jnp.int32)
            return None, (log_p_BC, jnp.minimum(rank_BC, max_rank))

        positions = jax.tree.map(lambda array: jnp.moveaxis(array, 2, 0), (hidden, targets))
        _, scores = jax.lax.scan(score_position, None, positions)
        log_p_BCA, rank_BCA = jax.tree.map(lambda array: jnp.moveaxis(array, 0, 2), scores)
        return log_p_BCA, rank_BCA

    return score
