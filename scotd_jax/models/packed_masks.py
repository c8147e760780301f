"""Attention masks of packed rows, which hold several sequences (prompts or responses) one after the other.

Training packs the responses of a question, and several questions, into few long rows (corpus/batching/collate.py) to
avoid padding. Three arrays describe a packed row:

    positions int32[B, G, R]          index of a token within its response, 0 where one begins; 0 on padding
    questions int32[B, G, R]          index within the row of the question that a response answers
    prompt_questions int32[B, P]      index within the row of the question that a prompt token belongs to

The last two are omitted if a row holds one question. The masks follow from these arrays and are the same for all
layers: a token attends to the tokens of its own sequence up to itself, and a response also attends to its own prompt.
The number of tokens that it attends to determines its position. A padding token attends to itself, so it never produces
NaN.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from scotd_jax.models.api import Context
from scotd_jax.models.attention import causal_mask

QuestionIds = tuple[Array, Array]  # prompt_questions[B, P], questions[B, G, R]


def packed_prompt_mask(prompt_questions: Int[Array, "B P"]) -> Bool[Array, "B 1 P P"]:
    """Returns a mask, True at [..., r, t] if token t belongs to the question of token r and is not after it."""
    P = prompt_questions.shape[-1]
    return same_id_mask(prompt_questions)[:, None] & causal_mask(P, P)


def packed_response_mask(positions: Int[Array, "B G R"]) -> Bool[Array, "B G R R"]:
    """Returns a mask, True at [..., r, t] if token t belongs to the response of token r and is not after it."""
    R = positions.shape[-1]
    return same_id_mask(jnp.cumsum(positions == 0, axis=-1)) & causal_mask(R, R)


def same_id_mask(ids: Int[Array, "*rows R"]) -> Bool[Array, "*rows R R"]:
    """Returns a mask, True at [..., r, t] if tokens r and t have the same id."""
    return ids[..., :, None] == ids[..., None, :]


def packed_positions(mask: Bool[Array, "B G R R"]) -> Int[Array, "B G R"]:
    """Returns the index of every token in its own sequence: the number of other tokens that it attends to."""
    return mask.sum(-1, dtype=jnp.int32) - 1


def packed_context(context: Context, questions: QuestionIds) -> Context:
    """Restricts the last segment, which holds packed prompts, to each response token's own prompt.

    Args:
      context: as returned by `prefill`; its `length` counts only tokens before the packed prompts.
      questions: the question ids of prompt tokens and of response tokens.

    Returns:
      A context whose last segment has a mask [B, G, R, P] and whose `length` [B, G, R] includes each token's prompt.
    """
    prompt_questions_BP, questions_BGR = questions
    *before, packed = context.segments
    mask_BGRP = (prompt_questions_BP[:, None, None, :] == questions_BGR[..., None]) & packed.mask[:, None, None, :]
    length_BGR = context.length[:, None, None] + mask_BGRP.sum(-1, dtype=jnp.int32)
    return Context((*before, packed._replace(mask=mask_BGRP)), length_BGR)
