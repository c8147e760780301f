"""The decode loop on a Markov model, whose probabilities are known."""

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from scotd_jax.config import Sampling
from scotd_jax.models.api import Precision
from scotd_jax.models.registry import build, config_for
from scotd_jax.sampling import decode_loop
from scotd_jax.sampling.noise import base_key, hash_question_id
from scotd_jax.sampling.stop_strings import stop_table
from tests.helpers.markov import EOS, LINE_END, LetterTokenizer, markov_model, markov_table
from tests.helpers.tolerances import FLOAT32

pytestmark = pytest.mark.usefixtures("fast_compilation")
B, G, P, T = 3, 40, 4, 12
MODEL = markov_model()
TOKEN_BYTES = LetterTokenizer().token_bytes()
STOPS, NO_STOPS = stop_table(TOKEN_BYTES, ["\n\n"]), np.zeros((3, len(TOKEN_BYTES)), np.int32)
ACTIVE = np.ones((B, G), bool)
POLICY = Sampling(n=G, max_new_tokens=T, chunk=4)


class Generation(NamedTuple):
    tokens: np.ndarray  # [B, G, T]
    length: np.ndarray  # [B, G], as the following
    logprob: np.ndarray
    stopped: np.ndarray  # ended by an end token or a stop string


@functools.cache
def compiled(policy, vocab_limit, eos_ids):
    return jax.jit(functools.partial(decode_loop.decode_steps, MODEL, policy, vocab_limit=vocab_limit, eos_ids=eos_ids))


def generate(
    table,
    policy=POLICY,
    active=ACTIVE,
    seed=0,
    stops=STOPS,
    vocab_limit=LetterTokenizer.size,
    eos_ids=(EOS,),
    steps=None,
):
    """Decodes all active slots from the same step on; slot (b, g) decodes sample g of question b.

    The prompt of question b ends with token b. The number of steps of each chunk is appended to the list `steps`.
    """
    policy = dataclasses.replace(policy, n=G, chunk=POLICY.chunk)
    weights = decode_loop.inference_weights(MODEL, {"table": jnp.asarray(table)})
    contexts, state, cache = decode_loop.init_state(MODEL, policy, weights.params, B, 1, P)
    hashes = np.stack([hash_question_id(str(b)) for b in range(B)])
    inputs = decode_loop.StepInputs(
        is_new=active,
        start_token=np.broadcast_to(np.arange(B, dtype=np.int32)[:, None], (B, G)),
        context_index=np.zeros((B, G), np.int32),
        question_hash=np.broadcast_to(hashes[:, None], (B, G, 2)),
        sample_index=np.broadcast_to(np.arange(G, dtype=np.int32), (B, G)),
    )
    chunks = []
    while not chunks or state.active.any():
        state, cache, tokens, num_steps = compiled(policy, vocab_limit, eos_ids)(
            weights, None, contexts, state, cache, inputs, base_key(seed), jnp.asarray(stops)
        )
        chunks.append(tokens)
        inputs = inputs._replace(is_new=np.zeros_like(active))
        if steps is not None:
            steps.append(int(num_steps))
    tokens = np.pad(np.concatenate(chunks, -1), ((0, 0), (0, 0), (0, T)))[..., :T]
    return Generation(tokens, *map(np.asarray, (state.position, state.logprob, state.stopped)))


@pytest.mark.slow
def test_responses_end_at_eos_stop_string_or_limit_and_are_padded_with_zeros():
    generation = generate(markov_table(0))
    ends = set()
    for tokens, length, stopped in zip(
        generation.tokens.reshape(-1, T), generation.length.ravel(), generation.stopped.ravel(), strict=True
    ):
        response, padding = tokens[:length].tolist(), tokens[length:]
        at_stop = response[-2:] == [LINE_END, LINE_END]
        assert stopped == (response[-1] == EOS or at_stop)
        assert stopped or length == T
        assert EOS not in response[:-1]
        assert (LINE_END, LINE_END) not in itertools.pairwise(response[:-1])
        assert not padding.any()
        ends.add("limit" if not stopped else "stop" if at_stop else "eos")
    assert ends == {"limit", "stop", "eos"}


def test_log_probability_is_that_of_the_untempered_model():
    table = markov_table(1)
    generation = generate(table, Sampling(temperature=0.5, top_k=3, max_new_tokens=T))
    assert_log_probabilities(generation, table)


def assert_log_probabilities(generation, table):
    exact = scipy.special.log_softmax(table.astype(np.float64), axis=-1)
    for b, g in np.ndindex(B, G):
        response = generation.tokens[b, g, : generation.length[b, g]].tolist()
        expected = sum(exact[last, token] for last, token in zip([b, *response[:-1]], response, strict=True))
        np.testing.assert_allclose(generation.logprob[b, g], expected, rtol=FLOAT32)


def test_greedy_samples_of_a_question_are_equal():
    table = markov_table(2)
    generation = generate(table, Sampling(temperature=0.0, max_new_tokens=T))
    assert (generation.tokens == generation.tokens[:, :1]).all()
    last = np.arange(B)
    for position in range(int(generation.length.min())):
        last = table[last].argmax(-1)
        np.testing.assert_array_equal(generation.tokens[:, 0, position], last)


def test_transition_frequencies_match_the_model():
    table = markov_table(3, end=-99.0)
    runs = [generate(table, stops=NO_STOPS, seed=seed).tokens for seed in range(10)]
    tokens = np.stack(runs).astype(int)
    counts = np.zeros(table.shape)
    np.add.at(counts, (tokens[..., :-1].ravel(), tokens[..., 1:].ravel()), 1)
    counts, expected = counts[:EOS, :EOS], scipy.special.softmax(table.astype(np.float64), -1)[:EOS, :EOS]
    expected *= counts.sum(-1, keepdims=True)
    assert scipy.stats.chisquare(counts.ravel(), expected.ravel(), ddof=EOS - 1).pvalue > 1e-3


def test_inactive_slots_generate_nothing_and_change_nothing():
    all_active = generate(markov_table(0))
    active = np.random.default_rng(0).random((B, G)) < 0.5
    generation = generate(markov_table(0), active=active)
    for part, full in zip(generation, all_active, strict=True):
        np.testing.assert_array_equal(part[active], full[active])
        assert not part[~active].any()


def test_ids_beyond_the_vocab_limit_are_never_sampled_but_count_in_probabilities():
    table = markov_table(4)
    table[:, 5:] += 8
    generation = generate(table, vocab_limit=5)
    assert generation.tokens.max() == 4
    assert_log_probabilities(generation, table)


@pytest.mark.parametrize(("end", "expected"), [(30.0, [1]), (-99.0, [4, 4, 4])])
def test_decoding_stops_when_no_sequence_is_active(end, expected):
    steps = []
    generate(markov_table(5, end), stops=NO_STOPS, steps=steps)
    assert steps == expected


def test_any_of_several_end_tokens_ends_a_response():
    generation = generate(markov_table(0), stops=NO_STOPS, eos_ids=(EOS, 0))
    last = np.take_along_axis(generation.tokens, generation.length[..., None] - 1, -1)[..., 0]
    np.testing.assert_array_equal(generation.stopped, (last == EOS) | (last == 0))
    assert (last[generation.stopped] == 0).any()
    assert (last[generation.stopped] == EOS).any()


@pytest.mark.slow
def test_inference_weights_give_the_same_results():
    model = build(config_for("opt-tiny"), Precision("bfloat16"))
    params = model.init(jax.random.key(0))
    weights = decode_loop.inference_weights(model, params)
    kernels = [x for path, x in jax.tree_util.tree_leaves_with_path(weights.params) if path[-1].key == "kernel"]
    assert {x.dtype for x in kernels} == {weights.unembedding.dtype} == {jnp.dtype("bfloat16")}
    tokens = jnp.arange(6).reshape(2, 3)
    before, after = (model.prefill(p, tokens, tokens >= 0) for p in (params, weights.params))
    jax.tree.map(np.testing.assert_array_equal, before, after)
