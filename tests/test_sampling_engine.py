"""The engine on a model whose every probability is known."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from scotd_jax.config import Sampling
from scotd_jax.sampling import engine
from scotd_jax.sampling.noise import name_words, row_keys
from scotd_jax.sampling.stops import stop_table
from tests.markov import EOS, LINE_END, LetterTokenizer, markov_model, markov_table
from tests.tolerances import FLOAT32

B, G, P, T = 3, 40, 4, 12
MODEL = markov_model()
TEXTS = LetterTokenizer().token_texts()
STOPS, NO_STOPS = stop_table(TEXTS, ["\n\n"]), np.zeros((3, len(TEXTS)), np.int32)
ACTIVE = np.ones((B, G), bool)
POLICY = Sampling(max_new_tokens=T)


def keys(seed=0):
    return row_keys(seed, np.stack([name_words(str(b)) for b in range(B)]), np.arange(G))


@functools.cache
def compiled(policy, vocab_limit):
    return jax.jit(engine.make_generate(MODEL, policy, eos_id=EOS, vocab_limit=vocab_limit))


def generate(table, policy=POLICY, active=ACTIVE, seed=0, stops=STOPS, vocab_limit=LetterTokenizer.size):
    prompt, start = np.zeros((B, P), np.int32), np.arange(B, dtype=np.int32)
    function = compiled(policy, vocab_limit)
    said = function({"table": table}, prompt, prompt == 0, start, keys(seed), active, stops)
    return engine.Generation(*map(np.asarray, said))


def test_every_response_ends_where_it_should_and_is_silent_after():
    said = generate(markov_table(0))
    ends = set()
    for tokens, length, finished in zip(
        said.tokens.reshape(-1, T), said.length.ravel(), said.finished.ravel(), strict=True
    ):
        text, rest = tokens[:length].tolist(), tokens[length:]
        at_stop = text[-2:] == [LINE_END, LINE_END]
        assert finished == (text[-1] == EOS or at_stop)
        assert finished or length == T
        assert EOS not in text[:-1]
        assert (LINE_END, LINE_END) not in itertools.pairwise(text[:-1])
        assert not rest.any()
        ends.add("limit" if not finished else "stop" if at_stop else "eos")
    assert ends == {"limit", "stop", "eos"}


def test_log_probability_is_that_of_the_untempered_model():
    table = markov_table(1)
    said = generate(table, Sampling(temperature=0.5, top_k=3, max_new_tokens=T))
    assert_log_probabilities(said, table)


def assert_log_probabilities(said, table):
    exact = scipy.special.log_softmax(table.astype(np.float64), axis=-1)
    for b, g in np.ndindex(B, G):
        text = said.tokens[b, g, : said.length[b, g]].tolist()
        expected = sum(exact[last, token] for last, token in zip([b, *text[:-1]], text, strict=True))
        np.testing.assert_allclose(said.logprob[b, g], expected, rtol=FLOAT32)


def test_greedy_rows_of_a_question_are_equal():
    table = markov_table(2)
    said = generate(table, Sampling(temperature=0.0, max_new_tokens=T))
    assert (said.tokens == said.tokens[:, :1]).all()
    last = np.arange(B)
    for position in range(int(said.length.min())):
        last = table[last].argmax(-1)
        np.testing.assert_array_equal(said.tokens[:, 0, position], last)


def test_transitions_are_as_frequent_as_the_model_says():
    table = markov_table(3, end=-99.0)
    runs = [generate(table, stops=NO_STOPS, seed=seed).tokens for seed in range(10)]
    tokens = np.stack(runs).astype(int)
    counts = np.zeros(table.shape)
    np.add.at(counts, (tokens[..., :-1].ravel(), tokens[..., 1:].ravel()), 1)
    counts, expected = counts[:EOS, :EOS], scipy.special.softmax(table.astype(np.float64), -1)[:EOS, :EOS]
    expected *= counts.sum(-1, keepdims=True)
    assert scipy.stats.chisquare(counts.ravel(), expected.ravel(), ddof=EOS - 1).pvalue > 1e-3


def test_inactive_rows_say_nothing_and_change_nothing():
    whole = generate(markov_table(0))
    active = np.random.default_rng(0).random((B, G)) < 0.5
    said = generate(markov_table(0), active=active)
    for part, full in zip(said, whole, strict=True):
        np.testing.assert_array_equal(part[active], full[active])
        assert not part[~active].any()


def test_ids_beyond_the_limit_are_never_drawn_but_count_in_probabilities():
    table = markov_table(4)
    table[:, 5:] += 8
    said = generate(table, vocab_limit=5)
    assert said.tokens.max() == 4
    assert_log_probabilities(said, table)


@pytest.mark.parametrize(("end", "expected"), [(30.0, 1), (-99.0, T)])
def test_decoding_stops_when_no_row_is_left(end, expected):
    rows = engine.begin(MODEL, jnp.zeros(B, jnp.int32), jnp.asarray(ACTIVE), T)
    rows = decode_until({"table": markov_table(5, end)}, rows, T, NO_STOPS)
    assert rows.position == expected


def test_pieces_give_what_one_go_gives():
    """What a scheduler needs that replaces finished rows between pieces."""
    table = markov_table(0)
    rows = engine.begin(MODEL, jnp.arange(B), jnp.asarray(ACTIVE), T)
    for until in (3, 4, T):
        rows = decode_until({"table": table}, rows, until, STOPS)
    for piece, whole in zip(rows.said, generate(table), strict=True):
        np.testing.assert_array_equal(piece, whole)


@functools.partial(jax.jit, static_argnames="until")
def decode_until(params, rows, until, stops):
    prompt = jnp.zeros((B, P), jnp.int32)
    context = MODEL.prefill(params, prompt, prompt == 0)
    limits = {"eos_id": EOS, "vocab_limit": LetterTokenizer.size}
    return engine.decode(MODEL, POLICY, params, context, rows, keys(), stops, until=until, **limits)
