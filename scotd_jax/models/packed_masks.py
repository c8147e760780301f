"""Rows in which several texts lie one behind the other, and what each of them may see.

Training lays the responses of a question, and several questions, into few long rows (corpus/batching/collate.py), so
that little is padding. Three arrays say what lies where:

    positions int32[B, G, R]          place of a token in its own response, 0 where one begins; 0 on padding
    questions int32[B, G, R]          which of its row's questions a response answers
    prompt_questions int32[B, P]      to which of them a prompt's token belongs

The last two are left out where a row holds one question. Everything else follows from masks, which are the same for
all layers: a token sees its own text up to itself, and a response sees its own prompt. How many tokens a mask shows
also says at which position a token stands. Padding sees itself at most, so no NaN can arise from it.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from scotd_jax.models.api import Context
from scotd_jax.models.attention import causal

Questions = tuple[Array, Array]  # prompt_questions[B, P], questions[B, G, R]


def own_response(positions: Int[Array, "B G R"]) -> Bool[Array, "B G R R"]:
    """[..., r, t]: token t belongs to the response of token r and is not after it."""
    R = positions.shape[-1]
    return same(jnp.cumsum(positions == 0, axis=-1)) & causal(R, R)


def same(texts: Int[Array, "*rows R"]) -> Bool[Array, "*rows R R"]:
    """[..., r, t]: tokens r and t carry the same number."""
    return texts[..., :, None] == texts[..., None, :]


def own_prompt(context: Context, questions: Questions) -> Context:
    """`context`, whose last segment holds the packed prompts, as the response tokens of `questions` see it: the mask of
    that segment is bool[B, G, R, P], and `length` int32[B, G, R] is what a token has before its response.

    `context.length` must be what comes before the packed prompts, as `prefill` says it.
    """
    prompts, responses = questions
    *before, packed = context.segments
    mine = (prompts[:, None, None, :] == responses[..., None]) & packed.mask[:, None, None, :]
    length = context.length[:, None, None] + mine.sum(-1, dtype=jnp.int32)
    return Context((*before, packed._replace(mask=mine)), length)


def places(own: Bool[Array, "B G R R"]) -> Int[Array, "B G R"]:
    """Where a token stands in its own text, by what it sees of it."""
    return own.sum(-1, dtype=jnp.int32) - 1
