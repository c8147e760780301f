"""Candidate log-likelihoods against one answer at a time, and marginals over rationales against a plain loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from scotd_jax.config import Mesh
from scotd_jax.distributed.mesh import make_mesh
from scotd_jax.distributed.sharding import param_shardings
from scotd_jax.evaluation.marginalization import log_marginal
from scotd_jax.layout import split_prompt
from scotd_jax.models.api import Precision
from scotd_jax.models.registry import build, config_for
from scotd_jax.sampling.likelihood import Candidates, score_candidates
from tests.helpers.tolerances import FLOAT32

pytestmark = pytest.mark.usefixtures("calls_are_not_retraced", "fast_compilation")
SHAPES = {
    "opt-tiny": {"init_std": 0.2, "vocab_size": 48, "num_hidden_layers": 1},
    "t5-tiny": {"initializer_factor": 1.5, "vocab_size": 48, "num_layers": 1},
}
PROMPTS = [[5, 9, 11], [7, 2], [3, 4, 6, 8, 10, 12, 14, 15, 16, 17]]
ANSWERS = [[[20, 1], [21, 22, 1]], [[23, 1]], [[20, 1], [24, 25, 26, 1], [27, 1]]]
SIZES = {"batch_size": 2, "bucket": 8}


@functools.cache
def model_and_params(kind):
    model = build(config_for(kind, SHAPES[kind]), Precision("float32"))
    return model, model.init(jax.random.key(3))


def candidates():
    return [Candidates(i, prompt, answers) for i, (prompt, answers) in enumerate(zip(PROMPTS, ANSWERS, strict=True))]


def scores(kind, mesh=None):
    model, params = model_and_params(kind)
    if mesh is not None:
        params = jax.device_put(params, param_shardings(mesh, model.axes(), model.abstract()))
    return {n: row for batch in score_candidates(model, params, candidates(), mesh=mesh, **SIZES) for n, row in batch}


def one_by_one(kind, prompt, answer):
    """log p of one answer, without padding, grouping or buckets."""
    model, params = model_and_params(kind)
    prefix, start = split_prompt(prompt, model.start_token)
    tokens = jnp.asarray([prefix], jnp.int32)
    context = model.prefill(params, tokens, jnp.ones_like(tokens, dtype=bool))
    hidden, _ = model.extend(params, context, jnp.asarray([[[start, *answer[:-1]]]], jnp.int32))
    log_p_RV = jax.nn.log_softmax(hidden[0, 0] @ model.unembedding(params).T)
    return float(sum(log_p_RV[i, token] for i, token in enumerate(answer)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SHAPES))
def test_scores_equal_those_of_single_answers(kind):
    found = scores(kind)
    assert {name: len(row) for name, row in found.items()} == {0: 2, 1: 1, 2: 3}
    for i, (prompt, answers) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        expected = [one_by_one(kind, prompt, answer) for answer in answers]
        np.testing.assert_allclose(found[i], expected, rtol=FLOAT32)


def test_scores_on_eight_devices_equal_those_on_one():
    alone, sharded = scores("t5-tiny"), scores("t5-tiny", make_mesh(Mesh(data=2, fsdp=2, tensor=2)))
    for name, row in alone.items():
        np.testing.assert_allclose(sharded[name], row, rtol=FLOAT32)


@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.floats(-60, 0)))
def test_marginal_is_the_mean_of_probabilities(log_p_NC):
    N, C = log_p_NC.shape
    total = [0.0] * C
    for n in range(N):
        for answer in range(C):
            total[answer] += np.exp(log_p_NC[n, answer]) / N
    np.testing.assert_allclose(np.exp(log_marginal(log_p_NC)), total, rtol=1e-12)


def test_marginals_compare_probabilities_below_float_range():
    assert np.argmax(log_marginal(np.array([[-2000.0, -1990.0], [-1995.0, -2100.0]]))) == 1
