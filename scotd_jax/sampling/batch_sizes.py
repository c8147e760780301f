"""Sizes of the sampler's batches: questions that are decoded at once, contexts per group, prompts per prefill call."""

from typing import Any

from scotd_jax.config import Sampling
from scotd_jax.distributed.mesh import batch_shards
from scotd_jax.distributed.sharding import AnyMesh
from scotd_jax.layout import round_up

_SCORED_PROMPTS = 32  # per batch, if the policy sets no batch size
MIN_SLOTS = 32  # with fewer, a decode step mostly reads weights
# SmolLM2-135M on two CPU cores, CPU time of a decode step per sequence (extrapolated from six layers): 3.2 ms with 32
# slots, 3.0 with 64 and 2.8 with 128. With still more slots, more of them are idle at the end of a pass.
MAX_SLOTS = 128
MAX_SLOT_BYTES = 2**30  # of keys, values and logits per batch shard


def questions_per_batch(config: Any, policy: Sampling, prompt_tokens: int, mesh: AnyMesh | None) -> int:
    """Returns the number of questions that are decoded at once over all devices, each with `policy.n` responses.

    It is `policy.batch_size`, rounded up to the batch shards of the mesh; or, if that is 0, as many as fit into
    MAX_SLOT_BYTES, with MIN_SLOTS to MAX_SLOTS sequences on every shard. It never depends on the number of questions,
    because array shapes affect rounding, and a resumed run must give the same bits.

    Args:
      config: config of the model.
      policy: sampling settings.
      prompt_tokens: padded length of the prompts after the few-shot examples.
      mesh: devices; None for one.
    """
    shards = 1 if mesh is None else batch_shards(mesh)
    if policy.batch_size:
        return round_up(policy.batch_size, shards)
    slots = MAX_SLOT_BYTES * policy.n // _bytes_per_question(config, policy, prompt_tokens)
    return shards * max(1, min(max(slots, MIN_SLOTS), MAX_SLOTS) // policy.n)


def scored_prompts_per_batch(policy: Sampling) -> int:
    """Number of prompts whose responses are scored at once: `policy.batch_size`, or a fixed number if that is 0."""
    return policy.batch_size or _SCORED_PROMPTS


def _bytes_per_question(config: Any, policy: Sampling, prompt_tokens: int) -> int:
    """Bytes of the contexts of a group, and of the caches and twice the logits of its sequences, all in float32."""
    layers, heads, width = config.cache_shape
    cached_tokens = contexts_per_group(policy) * prompt_tokens + policy.n * policy.max_new_tokens
    return 4 * (2 * layers * heads * width * cached_tokens + 2 * config.vocab_size * policy.n)


def contexts_per_group(policy: Sampling) -> int:
    """Number of questions whose contexts a group of slots holds at a time.

    One for a group of a single slot, else two. With 96 questions in 16 groups of 30 slots, and responses of 35 tokens
    on average and 56 at most, slot utilization was 0.62 with one context, 0.67 with two and 0.67 with three.
    """
    return 1 if policy.n == 1 else 2


def prefill_batch_size(batch_size: int, mesh: AnyMesh | None) -> int:
    """Number of prompts per prefill call: a quarter of the batch, rounded up to a multiple of the batch shards.

    The size hardly affects slot utilization: in the measurement of `contexts_per_group`, utilization was 0.67 with an
    eighth, a quarter and all of the batch, and 0.64 with half of it.
    """
    return round_up(-(-batch_size // 4), 1 if mesh is None else batch_shards(mesh))
