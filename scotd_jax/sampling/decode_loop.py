"""Device side of the sampler: prefills prompts into slots and decodes all active sequences one token per step.

A batch has B groups of G slots, and a slot decodes one sequence at a time. The slots of a group share the contexts of
up to W questions: while the last samples of one question are still running, free slots start samples of the next one.
`prefill` stores the contexts of new questions, `decode_steps` starts new sequences and decodes up to `policy.chunk`
tokens of every active one. Between two calls the host decides what runs next (scheduler.py).

All functions are pure. The tokens of a sequence depend on its prompt, question id and sample index alone (noise.py,
models/cache.py), not on its group, its slot, its neighbors or the step at which it started.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from scotd_jax.config import Sampling
from scotd_jax.layout import round_up
from scotd_jax.models.api import Cache, Context, LanguageModel, Params, Segment
from scotd_jax.models.cache import flush_recent
from scotd_jax.models.matmul import linear
from scotd_jax.sampling.noise import sample_keys, uniforms
from scotd_jax.sampling.policies import sample_token
from scotd_jax.sampling.stop_strings import START_STATE


class InferenceWeights(NamedTuple):
    """Model parameters, cast for the decode loop.

    Attributes:
      params: model parameters with kernels in the compute dtype (`cast_for_inference`).
      unembedding: output matrix in the compute dtype, transposed: XLA for CPUs would transpose [V, E] in every call of
        `decode_steps`.
    """

    params: Params
    unembedding: Float[Array, "E V"]


class SlotContexts(NamedTuple):
    """Contexts of the questions that the slots are decoding, W per group.

    Attributes:
      segments: keys and values of context w of every group, W segments with batch axis B.
      lengths: number of real tokens before the response, one int32[B] per context.
    """

    segments: tuple[Segment, ...]
    lengths: tuple[Int[Array, " B"], ...]


class DecodeState(NamedTuple):
    """State of the sequences in all slots.

    Attributes:
      last_token: the token that the next step feeds to the model.
      stop_state: row of the stop table after the tokens generated so far (stop_strings.py).
      position: number of tokens generated so far, including an end token or the tokens of a stop string.
      logprob: summed natural log-probability of these tokens under the untempered model.
      active: True while the sequence is being decoded.
      stopped: True if the sequence ended with an end token or a stop string, False if it reached `max_new_tokens`.
    """

    last_token: Int[Array, "B G"]
    stop_state: Int[Array, "B G"]
    position: Int[Array, "B G"]
    logprob: Float[Array, "B G"]
    active: Bool[Array, "B G"]
    stopped: Bool[Array, "B G"]


class StepInputs(NamedTuple):
    """Inputs of `decode_steps` that the host sets for every slot.

    Attributes:
      is_new: True where the slot starts a new sequence.
      start_token: first decoder input of a new sequence.
      context_index: index of the context that the slot attends to, among the W contexts of its group.
      question_hash: 64-bit hash of the question id (`noise.hash_question_id`).
      sample_index: index of the sample among those of its question.
    """

    is_new: Bool[Array, "B G"]
    start_token: Int[Array, "B G"]
    context_index: Int[Array, "B G"]
    question_hash: UInt32[Array, "B G 2"]
    sample_index: Int[Array, "B G"]


def cast_for_inference(model: LanguageModel, params: Params) -> Params:
    """Returns `params` with kernels cast to the compute dtype.

    Matmuls cast kernels to this dtype anyway, so results do not change, and bfloat16 kernels take half the memory.
    """

    def cast(path, leaf):
        return leaf.astype(model.precision.compute) if path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(cast, params)


def inference_weights(model: LanguageModel, params: Params) -> InferenceWeights:
    """Returns `params` and the transposed output matrix, with kernels and output matrix cast to the compute dtype."""
    unembedding = jnp.asarray(model.unembedding(params)).astype(model.precision.compute).T
    return InferenceWeights(cast_for_inference(model, params), unembedding)


def init_state(
    model: LanguageModel, policy: Sampling, params: Params, B: int, W: int, P: int
) -> tuple[SlotContexts, DecodeState, Cache]:
    """Allocates the arrays of the decode loop.

    Args:
      model: the model that decodes.
      policy: sampling settings; `policy.n` is the number of slots per group.
      params: model parameters; only their shapes and dtypes matter.
      B: number of groups.
      W: contexts per group.
      P: padded prompt length in tokens.

    Returns:
      Empty contexts, the state of idle slots, and an empty cache.
    """
    G, C = policy.n, policy.chunk
    tokens = jnp.zeros((B, P), jnp.int32)
    shapes = jax.eval_shape(model.prefill, params, tokens, tokens > 0)
    segment = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.segments[-1])
    contexts = SlotContexts((segment,) * W, (jnp.zeros(B, jnp.int32),) * W)
    zeros, inactive = jnp.zeros((B, G), jnp.int32), jnp.zeros((B, G), bool)
    state = DecodeState(zeros, zeros, zeros, jnp.zeros((B, G), jnp.float32), inactive, inactive)
    # The main part of the cache needs no room for the last chunk of a sequence, which stays in the recent part.
    return contexts, state, model.new_cache(B, G, round_up(policy.max_new_tokens - C, C), C)


def prefill(
    model: LanguageModel,
    params: Params,
    few_shot: Context | None,
    contexts: SlotContexts,
    tokens: Int[Array, "A P"],
    mask: Bool[Array, "A P"],
    source: Int[Array, "W B"],
) -> SlotContexts:
    """Computes the contexts of A prompts and stores them in the groups that will decode them.

    Args:
      model: the model that decodes.
      params: model parameters.
      few_shot: context of the few-shot examples that precede every prompt, if there are any.
      contexts: the current contexts of all groups.
      tokens: right-padded token ids of the prompts.
      mask: True on real tokens.
      source: row of `tokens` to store as context w of group b; -1 keeps the current one.

    Returns:
      The updated contexts.
    """
    context = model.prefill(params, tokens, mask, few_shot)
    new = (context.segments[-1], context.length)

    def store(current: Array, rows: Array, source_B: Int[Array, " B"]) -> Array:
        replaced = (source_B >= 0).reshape((-1,) + (1,) * (current.ndim - 1))
        return jnp.where(replaced, rows[jnp.maximum(source_B, 0)].astype(current.dtype), current)

    segments, lengths = [], []
    for segment, length, source_B in zip(contexts.segments, contexts.lengths, source, strict=True):
        stored = jax.tree.map(functools.partial(store, source_B=source_B), (segment, length), new)
        segments.append(stored[0])
        lengths.append(stored[1])
    return SlotContexts(tuple(segments), tuple(lengths))


def decode_steps(
    model: LanguageModel,
    policy: Sampling,
    weights: InferenceWeights,
    few_shot: Context | None,
    contexts: SlotContexts,
    state: DecodeState,
    cache: Cache,
    inputs: StepInputs,
    base_key: Key[Array, ""],
    stop_table: Int[Array, "states V"],
    *,
    eos_ids: Sequence[int],
    vocab_limit: int,
) -> tuple[DecodeState, Cache, Int[Array, "B G C"], Int[Array, ""]]:
    """Starts the new sequences of `inputs`, then decodes up to C = `policy.chunk` tokens of every active sequence.

    Args:
      model: the model that decodes.
      policy: sampling settings.
      weights: `inference_weights` of the model.
      few_shot: context of the few-shot examples, if there are any.
      contexts: contexts of the questions being decoded.
      state: state of all slots.
      cache: keys and values of the tokens generated so far.
      inputs: inputs of every slot for this call, set by the host.
      base_key: `noise.base_key` of the sampler's seed.
      stop_table: `stop_strings.stop_table` of the stop strings.
      eos_ids: token ids that end a response.
      vocab_limit: number of token ids of the tokenizer. Ids of further rows of the output matrix are never generated.

    Returns:
      The state, the cache, the tokens generated in each slot (0 where it generated none) and the number of steps, which
      is smaller than C if all sequences ended earlier.
    """
    keys = sample_keys(base_key, inputs.question_hash, inputs.sample_index)
    context = _select_contexts(few_shot, contexts, inputs.context_index)
    # Flush before the loop, not after it: XLA would copy the cache if the program read it before writing to it.
    cache = flush_recent(cache, policy.chunk)
    cache = cache._replace(length=jnp.where(inputs.is_new, 0, cache.length))
    state = _start_sequences(state, inputs)

    def decode_step(carry):
        state, cache, generated, step = carry
        hidden, cache = model.extend(weights.params, context, state.last_token[:, :, None], cache)
        logits = linear(hidden[:, :, 0], weights.unembedding, dtype=model.precision.compute)
        token, logprob = sample_token(logits, uniforms(keys, state.position), policy, vocab_limit)
        state = _append_token(state, token, logprob, stop_table, eos_ids, policy.max_new_tokens)
        generated = jax.lax.dynamic_update_index_in_dim(generated, state.last_token, step, axis=2)
        return state, cache, generated, step + 1

    def any_active(carry):
        state, _, _, step = carry
        return (step < policy.chunk) & jnp.any(state.active)

    generated = jnp.zeros((*state.last_token.shape, policy.chunk), jnp.int32)
    carry = (state, cache, generated, jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(any_active, decode_step, carry)  # pyrefly: ignore[bad-return]


def _select_contexts(few_shot: Context | None, contexts: SlotContexts, context_index: Int[Array, "B G"]) -> Context:
    """The few-shot examples and the contexts of each group, masked so that a slot attends to its own question only."""
    segments = contexts.segments
    if len(segments) > 1:
        segments = tuple(
            segment._replace(mask=(context_index == w)[..., None] & segment.mask[:, None])
            for w, segment in enumerate(segments)
        )
    lengths = jnp.stack(contexts.lengths, -1)
    length = jnp.take_along_axis(lengths, context_index, axis=1)
    return Context((*(few_shot.segments if few_shot else ()), *segments), length)


def _start_sequences(state: DecodeState, inputs: StepInputs) -> DecodeState:
    """Resets the slots that start a new sequence."""
    new = DecodeState(
        last_token=inputs.start_token,
        stop_state=jnp.full_like(state.stop_state, START_STATE),
        position=jnp.zeros_like(state.position),
        logprob=jnp.zeros_like(state.logprob),
        active=jnp.ones_like(state.active),
        stopped=jnp.zeros_like(state.stopped),
    )
    return jax.tree.map(lambda fresh, current: jnp.where(inputs.is_new, fresh, current), new, state)


def _append_token(
    state: DecodeState,
    token: Int[Array, "B G"],
    logprob: Float[Array, "B G"],
    stop_table: Int[Array, "states V"],
    eos_ids: Sequence[int],
    max_new_tokens: int,
) -> DecodeState:
    """The state after one more token of every active sequence; idle slots get token 0."""
    token = jnp.where(state.active, token, 0)
    stop_state = jnp.where(state.active, stop_table[state.stop_state, token], state.stop_state)
    is_end = jnp.stack([token == end for end in eos_ids]).any(0)
    stopped = state.active & (is_end | (stop_state == stop_table.shape[0] - 1))
    position = state.position + state.active.astype(jnp.int32)
    return DecodeState(
        last_token=token,
        stop_state=stop_state,
        position=position,
        logprob=state.logprob + jnp.where(state.active, logprob, 0),
        active=state.active & ~stopped & (position < max_new_tokens),
        stopped=state.stopped | stopped,
    )
