"""How a model speaks, on the device: questions are read into lanes, and rows say token after token.

A batch is B lanes of G rows. A lane holds the contexts of W questions, which its rows share: while the last samples of
one question are said, rows that are free say the first ones of the next. `read` puts questions into lanes, `decode`
lets rows begin a sample and moves all of them on by up to C tokens; between two calls whoever schedules (lanes.py)
looks at what has ended. Everything here is a pure function of arrays, and what a row says is decided by its name and
its question alone (noise.py, models/cache.py): not by its lane, its row, its neighbours, or when it began.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from scotd_jax.config import Sampling
from scotd_jax.layout import round_up
from scotd_jax.models.api import Cache, Context, Model, Params, Segment
from scotd_jax.models.cache import settle
from scotd_jax.models.layers import logits as output_logits
from scotd_jax.sampling.noise import keys_of, uniforms
from scotd_jax.sampling.policies import draw
from scotd_jax.sampling.stop_strings import START


class Weights(NamedTuple):
    """Parameters for speaking: what only goes into products has the dtype of products already."""

    params: Params
    unembedding: Float[Array, "V E"]


class Questions(NamedTuple):
    """The contexts of the lanes, W of them; `lengths` are int32[B], the real tokens of each."""

    segments: tuple[Segment, ...]
    lengths: tuple[Int[Array, " B"], ...]


class Rows(NamedTuple):
    """Samples under way. `last` is the token that is fed next, `stop_state` the row of the stop table, `position` the
    number of tokens said, the end token or those of the stop string included; `logprob` is their natural
    log-probability under the untempered model. `ended` tells a row that has come to an end from one at its limit."""

    last: Int[Array, "B G"]
    stop_state: Int[Array, "B G"]
    position: Int[Array, "B G"]
    logprob: Float[Array, "B G"]
    active: Bool[Array, "B G"]
    ended: Bool[Array, "B G"]


class Orders(NamedTuple):
    """What the rows are to do: those that are `fresh` begin with the input `start`. `place` says for every row which
    of its lane's questions it answers, `words` (noise.name_words) and `index` what its sample is called."""

    fresh: Bool[Array, "B G"]
    start: Int[Array, "B G"]
    place: Int[Array, "B G"]
    words: UInt32[Array, "B G 2"]
    index: Int[Array, "B G"]


def as_spoken(model: Model, params: Params) -> Params:
    """Kernels in the compute dtype, everything else as it is: the same numbers, half the bytes."""

    def cast(path, leaf):
        return leaf.astype(model.precision.compute) if path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(cast, params)


def speaking(model: Model, params: Params) -> Weights:
    """Parameters `as_spoken`, and the output matrix in the compute dtype, too."""
    unembedding = jnp.asarray(model.unembedding(params)).astype(model.precision.compute)
    return Weights(as_spoken(model, params), unembedding)


def empty(model: Model, policy: Sampling, params: Params, B: int, W: int, P: int) -> tuple[Questions, Rows, Cache]:
    """Lanes without questions (of up to P tokens each), rows that say nothing."""
    G, C = policy.n, policy.chunk
    tokens = jnp.zeros((B, P), jnp.int32)
    shapes = jax.eval_shape(model.prefill, params, tokens, tokens > 0)
    segment = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.segments[-1])
    questions = Questions((segment,) * W, (jnp.zeros(B, jnp.int32),) * W)
    none, no = jnp.zeros((B, G), jnp.int32), jnp.zeros((B, G), bool)
    rows = Rows(none, none, none, jnp.zeros((B, G), jnp.float32), no, no)
    return questions, rows, model.new_cache(B, G, round_up(policy.max_new_tokens - C, C), C)


def read(
    model: Model,
    params: Params,
    shared: Context | None,
    questions: Questions,
    tokens: Int[Array, "A P"],
    mask: Bool[Array, "A P"],
    source: Int[Array, "W B"],
) -> Questions:
    """Computes the contexts of A questions, right-padded and after what is `shared` by all; each place of each lane
    takes that of `source`, or keeps what it has (-1)."""
    context = model.prefill(params, tokens, mask, shared)

    def placed(old: Array, new: Array, source: Int[Array, " B"]) -> Array:
        taken = (source >= 0).reshape((-1,) + (1,) * (old.ndim - 1))
        return jnp.where(taken, new[jnp.maximum(source, 0)].astype(old.dtype), old)

    held = zip(questions.segments, questions.lengths, source, strict=True)
    new = (context.segments[-1], context.length)
    both = [jax.tree.map(lambda o, n, s=s: placed(o, n, s), (segment, length), new) for segment, length, s in held]
    return Questions(*map(tuple, zip(*both, strict=True)))


def decode(
    model: Model,
    policy: Sampling,
    weights: Weights,
    shared: Context | None,
    questions: Questions,
    rows: Rows,
    cache: Cache,
    orders: Orders,
    base: Key[Array, ""],
    stop_table: Int[Array, "states V"],
    *,
    eos_ids: Sequence[int],
    vocab_limit: int,
) -> tuple[Rows, Cache, Int[Array, "B G C"], Int[Array, ""]]:
    """Rows begin as they are ordered, then all go on by C tokens, or fewer once none is active.

    Also returns the tokens that each row said, 0 where it said none, and how many steps were made. Token ids from
    `vocab_limit` on (rows of the output matrix that no tokenizer knows) are never drawn.
    """
    C, matched = policy.chunk, stop_table.shape[0] - 1
    keys = keys_of(base, orders.words, orders.index)
    context = _seen(shared, questions, orders.place)
    # Here and not at the end: of a past that is read before it is changed, XLA would make a copy.
    cache = settle(cache, C)
    cache = cache._replace(length=jnp.where(orders.fresh, 0, cache.length))
    new = Rows(
        orders.start,
        jnp.full_like(rows.stop_state, START),
        *map(jnp.zeros_like, (rows.position, rows.logprob)),
        jnp.ones_like(rows.active),
        jnp.zeros_like(rows.ended),
    )
    rows = jax.tree.map(lambda begun, going: jnp.where(orders.fresh, begun, going), new, rows)

    def say(state):
        rows, cache, said, step = state
        hidden, cache = model.extend(weights.params, context, rows.last[:, :, None], cache)
        logits = output_logits(hidden[:, :, 0], weights.unembedding, model.precision.compute)
        token, logprob = draw(logits, uniforms(keys, rows.position), policy, vocab_limit)
        token = jnp.where(rows.active, token, 0)
        stop_state = jnp.where(rows.active, stop_table[rows.stop_state, token], rows.stop_state)
        at_end = jnp.stack([token == end for end in eos_ids]).any(0)
        ended = rows.active & (at_end | (stop_state == matched))
        position = rows.position + rows.active.astype(jnp.int32)
        rows = Rows(
            token,
            stop_state,
            position,
            rows.logprob + jnp.where(rows.active, logprob, 0),
            rows.active & ~ended & (position < policy.max_new_tokens),
            rows.ended | ended,
        )
        return rows, cache, jax.lax.dynamic_update_index_in_dim(said, token, step, axis=2), step + 1

    said = jnp.zeros((*rows.last.shape, C), jnp.int32)
    go_on = lambda state: (state[3] < C) & jnp.any(state[0].active)  # noqa: E731
    rows, cache, said, steps = jax.lax.while_loop(go_on, say, (rows, cache, said, jnp.zeros((), jnp.int32)))
    return rows, cache, said, steps


def _seen(shared: Context | None, questions: Questions, place: Int[Array, "B G"]) -> Context:
    """What the rows look back on: what is shared by all, and of the questions of their lane the one in their place."""
    own = questions.segments
    if len(own) > 1:
        own = tuple(s._replace(mask=(place == w)[..., None] & s.mask[:, None]) for w, s in enumerate(own))
    lengths = jnp.stack(questions.lengths, -1)
    length = jnp.take_along_axis(lengths, place, axis=1)
    return Context((*(shared.segments if shared else ()), *own), length)
