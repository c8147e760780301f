"""Log-likelihoods of candidate answers, compared with one answer at a time; marginals, compared with a plain loop."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from scotd_jax.config import Mesh
from scotd_jax.distributed.mesh import make_mesh
from scotd_jax.distributed.sharding import param_shardings
from scotd_jax.errors import InputError
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
    "decoder-tiny": {"initializer_range": 0.2, "vocab_size": 48, "num_hidden_layers": 1},
}
PROMPTS = [[5, 9, 11], [7, 2], [3, 4, 6, 8, 10, 12, 14, 15, 16, 17]]
ANSWERS = [[[20, 1], [21, 22, 1]], [[23, 1]], [[20, 1], [24, 25, 26, 1], [27, 1]]]
PREFIXES = [[30, 31, 32, 33, 34, 35, 36, 37, 38], [], [39]]  # generated rationales
SIZES = {"batch_size": 2, "bucket": 8}


@functools.cache
def model_and_params(kind):
    model = build(config_for(kind, SHAPES[kind]), Precision("float32"))
    return model, model.init(jax.random.key(3))


def candidates():
    rows = zip(PROMPTS, ANSWERS, PREFIXES, strict=True)
    return [Candidates(i, prompt, answers, prefix) for i, (prompt, answers, prefix) in enumerate(rows)]


def scores(kind, mesh=None):
    """Returns {index of the prompt: log-likelihoods of its answers}."""
    model, params = model_and_params(kind)
    if mesh is not None:
        params = jax.device_put(params, param_shardings(mesh, model.axes(), model.abstract()))
    return {n: row for batch in score_candidates(model, params, candidates(), mesh=mesh, **SIZES) for n, row in batch}


@functools.cache
def log_softmax_of(kind):
    """Returns a function (params, prompt, inputs) -> log-probabilities [R, V], for one unpadded prompt and response."""
    model, _ = model_and_params(kind)

    @jax.jit
    def log_softmax(params, prompt, inputs):
        hidden, _ = model.extend(params, model.prefill(params, prompt, jnp.ones_like(prompt, dtype=bool)), inputs)
        return jax.nn.log_softmax(hidden[0, 0] @ model.unembedding(params).T)

    return log_softmax


def one_by_one(kind, prompt, answer, prefix):
    """log p of one answer after a prefix, without padding, grouping or buckets."""
    model, params = model_and_params(kind)
    before, start = split_prompt(prompt, model.start_token)
    inputs = np.array([[[start, *prefix, *answer[:-1]]]], np.int32)
    log_p_RV = np.asarray(log_softmax_of(kind)(params, np.array([before], np.int32), inputs))
    return float(sum(log_p_RV[len(prefix) + i, token] for i, token in enumerate(answer)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SHAPES))
def test_scores_equal_those_of_single_sequences(kind):
    found = scores(kind)
    assert {name: len(row) for name, row in found.items()} == {0: 2, 1: 1, 2: 3}
    for item in candidates():
        expected = [one_by_one(kind, item.prompt_ids, answer, item.prefix_ids) for answer in item.responses]
        np.testing.assert_allclose(found[item.key], expected, rtol=FLOAT32)


def token_lists(least, most):
    return st.lists(st.integers(2, 47), min_size=least, max_size=most)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SHAPES))
@settings(max_examples=6)
@given(
    items=st.lists(
        st.tuples(token_lists(1, 20), token_lists(0, 14), st.lists(token_lists(1, 7), min_size=1, max_size=3)),
        min_size=1,
        max_size=4,
    )
)
def test_scores_do_not_depend_on_padding_and_grouping(kind, items):
    """Choices that are scored together in one batch have the scores of single choices, which get other padding."""
    model, params = model_and_params(kind)
    together = [Candidates(i, prompt, answers, prefix) for i, (prompt, prefix, answers) in enumerate(items)]
    alone = [
        dataclasses.replace(item, key=(item.key, k), responses=[answer])
        for item in together
        for k, answer in enumerate(item.responses)
    ]
    found = {n: row for batch in score_candidates(model, params, together, batch_size=4, bucket=24) for n, row in batch}
    single = {n: row for batch in score_candidates(model, params, alone, batch_size=1, bucket=32) for n, row in batch}
    for (key, k), score in single.items():
        np.testing.assert_allclose(found[key][k], score[0], rtol=FLOAT32, atol=FLOAT32)


def test_a_prefix_beyond_the_positions_is_refused():
    model, params = model_and_params("opt-tiny")
    limit = model.config.max_position_embeddings
    too_long = Candidates("q", [5] * 10, [[20, 1]], [6] * (limit - 11))
    with pytest.raises(InputError, match=rf"q: {limit - 1} tokens of prompt and rationale.*lower max_new_tokens"):
        list(score_candidates(model, params, [too_long], **SIZES))


@pytest.mark.parametrize("responses", [[], [[20, 1], []]])
def test_prompts_without_responses_are_refused(responses):
    items = [*candidates(), Candidates("q", [5], responses)]
    with pytest.raises(InputError, match="q: expected responses of at least one token each"):
        list(score_candidates(*model_and_params("opt-tiny"), items, **SIZES))


@pytest.mark.slow
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
