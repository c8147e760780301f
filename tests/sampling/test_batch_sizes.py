"""Number of questions that are decoded at once: that of the policy, or as many as fit into memory."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from scotd_jax.config import Mesh, Sampling
from scotd_jax.distributed.mesh import make_abstract_mesh
from scotd_jax.errors import FieldError
from scotd_jax.models.api import Precision
from scotd_jax.models.registry import build, config_for
from scotd_jax.sampling import decode_loop
from scotd_jax.sampling.batch_sizes import (
    MAX_SLOT_BYTES,
    MAX_SLOTS,
    MIN_SLOTS,
    contexts_per_group,
    questions_per_batch,
)

FOUR_SHARDS = make_abstract_mesh(Mesh(data=2, fsdp=2, tensor=2), 8)


def test_batch_size_of_the_policy_is_rounded_up_to_the_shards():
    config, policy = config_for("opt-tiny"), Sampling(n=30, batch_size=5)
    assert questions_per_batch(config, policy, 64, None) == 5
    assert questions_per_batch(config, policy, 64, FOUR_SHARDS) == 8


@pytest.mark.parametrize("architecture", ["opt-tiny", "t5-tiny", "decoder-tiny"])
@pytest.mark.parametrize("n", [1, 5])
def test_automatic_batch_size_follows_from_the_memory_of_all_arrays(architecture, n):
    model, P = build(config_for(architecture), Precision("float32"), "cpu"), 16
    token_bytes = 8 * math.prod(model.config.cache_shape)  # keys and values of all layers
    for slots in (10**4, 100, 40, 1):
        tokens = MAX_SLOT_BYTES // (slots * token_bytes)
        policy = Sampling(n=n, max_new_tokens=tokens)
        questions = questions_per_batch(model.config, policy, P, None)
        contexts = contexts_per_group(policy)
        arrays = jax.eval_shape(
            lambda params, policy=policy, questions=questions, contexts=contexts: decode_loop.init_state(
                model, policy, params, questions, contexts, P
            ),
            model.abstract(),
        )
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays))
        if MIN_SLOTS < slots < MAX_SLOTS:
            assert 0.8 * slots <= questions * n <= slots
            assert 0.8 * MAX_SLOT_BYTES < size <= MAX_SLOT_BYTES
        else:
            assert questions == np.clip(slots, MIN_SLOTS, MAX_SLOTS) // n
        assert questions_per_batch(model.config, policy, P, FOUR_SHARDS) == 4 * questions


def test_a_question_with_many_responses_is_decoded_alone():
    assert questions_per_batch(config_for("opt-tiny"), Sampling(n=1000), 64, None) == 1


def test_negative_batch_size_is_refused():
    with pytest.raises(FieldError, match=r"expected at least 0 \(automatic\), found -1"):
        dataclasses.replace(Sampling(), batch_size=-1)
