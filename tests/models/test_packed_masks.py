"""Packed rows of several questions and responses have the loss and gradient of separate pairs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scotd_jax.corpus.batching import collate
from scotd_jax.corpus.batching.shapes import Shape
from scotd_jax.models.api import Context, Segment
from scotd_jax.models.packed_masks import packed_context, packed_positions, packed_response_mask
from scotd_jax.training.step import hidden_states, make_loss_fn
from tests.helpers.exhaustive import repeat_for
from tests.helpers.tolerances import FLOAT32, GRADIENT
from tests.models.test_attention import close
from tests.models.test_model_invariants import REPRESENTATIVE, V, model, params, right_padded, tokens

pytestmark = pytest.mark.usefixtures("fast_compilation")

P, R = 6, 5  # the largest lengths of a prompt and a response
KINDS = (*REPRESENTATIVE, "decoder")
PAIR_SHAPE = Shape(1, P, 1, R, packed=False)


def questions(seed: int, lengths: list[tuple[int, list[int]]]) -> list[collate.DrawnExample]:
    """Returns random questions with these (prompt length, response lengths); every second response counts twice."""
    rng = np.random.default_rng(seed)

    def text(length: int) -> list[int]:
        return rng.integers(0, V, length).tolist()

    return [
        collate.DrawnExample(text(prompt), [text(r) for r in responses], [1 + i % 2 for i in range(len(responses))])
        for prompt, responses in lengths
    ]


def pairs(rows: list[collate.DrawnExample], start: int | None) -> dict[str, np.ndarray]:
    """Returns a batch of single responses with their prompts, repeated by count; 16 rows, to compile only once."""
    examples = [
        collate.DrawnExample(question.prompt, [response], [1])
        for question in rows
        for response, count in zip(question.responses, question.counts, strict=True)
        for _ in range(count)
    ]
    batch = collate.collate_plain(examples, PAIR_SHAPE, start)
    return {k: np.pad(v, [(0, 16 - len(examples))] + [(0, 0)] * (v.ndim - 1)) for k, v in batch.items()}


@functools.cache
def loss_fn(kind):
    m = model(kind)
    return jax.jit(jax.value_and_grad(lambda p, batch: make_loss_fn(m, chunk=7)(p, batch)[0].mean()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", repeat_for([*KINDS, "gemma3"], kept=("t5-v1.0", "gemma3")))
@settings(max_examples=8)
@given(data=st.data())
def test_packed_loss_and_gradient_equal_those_of_separate_pairs(kind, data):
    """Two rows of two questions with one to three responses each; some prompts have one token (no prefix)."""
    lengths = st.tuples(st.integers(1, P), st.lists(st.integers(1, R), min_size=1, max_size=3))
    rows = questions(data.draw(st.integers(0, 2**32 - 1)), data.draw(st.lists(lengths, min_size=4, max_size=4)))
    start = model(kind).start_token
    shape = Shape(2, 2 * P, 4, 2 * R, packed=True)
    batch = collate.collate_packed([rows[:2], rows[2:]], shape, start)
    loss, gradient = loss_fn(kind)(params(kind), batch)
    expected, expected_gradient = loss_fn(kind)(params(kind), pairs(rows, start))
    close(loss, expected, GRADIENT)
    close(gradient, expected_gradient, GRADIENT)


@pytest.mark.slow
@pytest.mark.parametrize("kind", REPRESENTATIVE)
def test_packed_rows_of_one_question_equal_the_plain_layout(kind):
    rows = questions(3, [(4, [3, 5, 2]), (6, [1, 1, 4])])
    rows = [row._replace(counts=[1, 1, 1]) for row in rows]
    start = model(kind).start_token
    packed = collate.collate_packed([[row] for row in rows], Shape(2, P, 2, 8, packed=True), start)
    assert "questions" not in packed
    plain = collate.collate_plain(rows, Shape(2, P, 3, R, packed=False), start)
    for found, expected in zip(*(loss_fn(kind)(params(kind), batch) for batch in (packed, plain)), strict=True):
        close(found, expected, GRADIENT)


@pytest.mark.slow
@pytest.mark.usefixtures("default_compilation")
@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_neighbours_do_not_change_bits(kind):
    rows = questions(4, [(4, [3, 5]), (6, [4])])
    start = model(kind).start_token
    batch = collate.collate_packed([rows], Shape(1, 16, 2, 12, packed=True), start)
    m, p = model(kind), params(kind)  # built before `run` is traced: their caches must hold no tracers
    run = jax.jit(lambda batch: hidden_states(m, p, batch))
    want = run(batch)
    assert jnp.isfinite(want).all()
    padding = batch["weights"] == 0
    other = {**batch, "inputs": np.where(padding, 7, batch["inputs"])}
    other["prompt"] = np.where(batch["prompt_mask"], batch["prompt"], 9)
    np.testing.assert_array_equal(run(other)[~padding], want[~padding])
    for k in range(2):  # replaces the other question
        own = (batch["questions"] == k) & ~padding
        other = {**batch, "inputs": np.where(own, batch["inputs"], 7)}
        other["prompt"] = np.where(batch["prompt_questions"] == k, batch["prompt"], 9)
        np.testing.assert_array_equal(run(other)[own], want[own])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["opt", "decoder"])
def test_packed_prompts_after_shared_few_shot_examples(kind):
    """One response to each of two questions, in one row."""
    m, p = model(kind), params(kind)
    examples = jax.jit(m.prefill)(p, tokens(0, 1, 4), jnp.ones((1, 4), bool))
    rows = questions(5, [(4, [5]), (6, [4])])
    packed = collate.collate_packed([rows], Shape(1, 16, 1, 12, packed=True), None)
    question_ids = packed["prompt_questions"], packed["questions"]
    context = jax.jit(m.prefill)(p, packed["prompt"], packed["prompt_mask"], examples, questions=question_ids[0])
    got = jax.jit(m.extend)(p, context, packed["inputs"], positions=packed["positions"], questions=question_ids)[0]
    begin = 0
    for row in rows:  # longer responses come first in the packed row; here questions keep their order
        alone = collate.collate_plain([row], Shape(1, P, 1, R, packed=False), None)
        context = jax.jit(m.prefill)(p, alone["prompt"], alone["prompt_mask"], examples)
        want, length = jax.jit(m.extend)(p, context, alone["inputs"])[0], len(row.responses[0])
        close(got[0, 0, begin : begin + length], want[0, 0, :length], FLOAT32)
        begin += length


def test_response_sees_only_its_own_prompt_and_continues_its_positions():
    mask = right_padded([5], 6)
    segment = Segment((), (), mask)
    prompts, answers = jnp.array([[0, 0, 1, 1, 1, 0]]), jnp.array([[[0, 0, 1, 0]]])
    context = packed_context(Context((segment,), jnp.array([10])), (prompts, answers))
    assert context.length.tolist() == [[[12, 12, 13, 12]]]
    assert context.segments[0].mask[0, 0, 2].tolist() == [False, False, True, True, True, False]
    own = packed_response_mask(jnp.array([[[0, 1, 0, 0]]]))
    assert own[0, 0].astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert packed_positions(own).tolist() == [[[0, 1, 0, 0]]]
