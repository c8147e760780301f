"""How a model speaks: one prefill per question, then one token at a time for all its samples.

Everything here is a pure function of arrays. A batch is B questions of G rows; the rows of a question share its
context, and each has a past of its own. `begin` makes the rows, `decode` moves all of them on until a position or
until none is active, and `make_generate` puts them together: one `begin`, then a few stages of `decode`. A step reads
the whole cache, filled or not, so each stage has a cache of its own length. Between stages nothing is lost or
changed, which is also where finished rows can be replaced.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from scotd_jax.config import Sampling
from scotd_jax.models.api import Cache, Context, Model, Params
from scotd_jax.models.layers import logits as output_logits
from scotd_jax.sampling.noise import uniforms
from scotd_jax.sampling.policies import draw, log_probability
from scotd_jax.sampling.stops import START


class Generation(NamedTuple):
    """What was said; T is the largest number of tokens that a response may have.

    `length` counts the tokens said, the end token or those of the stop string included; `tokens` is 0 beyond it.
    `logprob` is the natural log-probability of these tokens under the untempered model. `finished` is False where a
    response ran into the limit and in rows that were never active.
    """

    tokens: Int[Array, "B G T"]
    length: Int[Array, "B G"]
    logprob: Float[Array, "B G"]
    finished: Bool[Array, "B G"]


class Rows(NamedTuple):
    """Responses under way. `last` is the token that is fed next, `stop_state` the row of the stop table."""

    said: Generation
    last: Int[Array, "B G"]
    stop_state: Int[Array, "B G"]
    active: Bool[Array, "B G"]
    position: Int[Array, ""]
    cache: Cache


STAGE = 32  # tokens said with one length of the cache
MOST_STAGES = 4  # each one is compiled


def stages(limit: int) -> list[int]:
    """Positions at which the cache grows: equal parts of about STAGE tokens, or longer ones if they were too many."""
    count = min(MOST_STAGES, max(1, round(limit / STAGE)))
    return [-(-limit * i // count) for i in range(1, count + 1)]


def begin(model: Model, start: Int[Array, "B"], active: Bool[Array, "B G"], limit: int) -> Rows:
    """Rows that have said nothing yet and may say `limit` tokens. Rows that are not active stay silent."""
    shape = active.shape
    nothing = jnp.zeros(shape, jnp.int32)
    said = Generation(jnp.zeros((*shape, limit), jnp.int32), nothing, jnp.zeros(shape), jnp.zeros(shape, bool))
    last = jnp.broadcast_to(start[:, None], shape)
    stop_state, position = jnp.full(shape, START, jnp.int32), jnp.zeros((), jnp.int32)
    return Rows(said, last, stop_state, active, position, model.new_cache(*shape, 0))


def with_room(cache: Cache, length: int) -> Cache:
    """The cache with at least `length` slots, those filled so far where they were."""

    def grown(slots: Float[Array, "B G K T Dh"]) -> Float[Array, "B G K U Dh"]:
        return jnp.pad(slots, [(0, 0)] * 3 + [(0, max(0, length - slots.shape[3])), (0, 0)])

    return Cache(*jax.tree.map(grown, (cache.keys, cache.values)), cache.index)


def decode(
    model: Model,
    policy: Sampling,
    params: Params,
    context: Context,
    rows: Rows,
    keys: Key[Array, "B G"],
    stop_table: Int[Array, "states V"],
    *,
    until: int,
    eos_id: int,
    vocab_limit: int,
) -> Rows:
    """Moves the rows on until `until` tokens have been said or no row is active, in a cache of that many slots.

    Token ids from `vocab_limit` on (rows of the output matrix that no tokenizer knows) are never drawn.
    """
    unembedding = model.unembedding(params)
    matched = stop_table.shape[0] - 1

    def under_way(rows: Rows) -> Bool[Array, ""]:
        return (rows.position < until) & jnp.any(rows.active)

    def say(rows: Rows) -> Rows:
        hidden, cache = model.extend(params, context, rows.last[:, :, None], rows.cache)
        logits = output_logits(hidden[:, :, 0], unembedding, model.precision.compute)
        allowed = logits
        if vocab_limit < logits.shape[-1]:
            allowed = jnp.where(jnp.arange(logits.shape[-1]) < vocab_limit, logits, -jnp.inf)
        token = draw(allowed, uniforms(keys, rows.position), policy)
        token = jnp.where(rows.active, token, 0)
        stop_state = jnp.where(rows.active, stop_table[rows.stop_state, token], rows.stop_state)
        ended = rows.active & ((token == eos_id) | (stop_state == matched))
        said = Generation(
            jax.lax.dynamic_update_index_in_dim(rows.said.tokens, token, rows.position, axis=2),
            rows.said.length + rows.active.astype(jnp.int32),
            rows.said.logprob + jnp.where(rows.active, log_probability(logits, token), 0),
            rows.said.finished | ended,
        )
        return Rows(said, token, stop_state, rows.active & ~ended, rows.position + 1, cache)

    return jax.lax.while_loop(under_way, say, rows._replace(cache=with_room(rows.cache, until)))


def make_generate(model: Model, policy: Sampling, *, eos_id: int, vocab_limit: int) -> Callable[..., Generation]:
    """generate(params, prompt[B, P], mask[B, P], start[B], keys[B, G], active[B, G], stop_table) -> Generation.

    `prompt` holds right-padded prefixes and `start` the first input of every response (layout.split_prompt). `keys`
    come from noise.row_keys, `stop_table` from stops.stop_table. Pure, meant for jax.jit: one compilation per shape.
    """

    def generate(
        params: Params,
        prompt: Int[Array, "B P"],
        mask: Bool[Array, "B P"],
        start: Int[Array, "B"],
        keys: Key[Array, "B G"],
        active: Bool[Array, "B G"],
        stop_table: Int[Array, "states V"],
    ) -> Generation:
        context = model.prefill(params, prompt, mask)
        rows = begin(model, start, active, policy.max_new_tokens)
        limits = {"eos_id": eos_id, "vocab_limit": vocab_limit}
        for until in stages(policy.max_new_tokens):
            rows = decode(model, policy, params, context, rows, keys, stop_table, until=until, **limits)
        return rows.said

    return generate
