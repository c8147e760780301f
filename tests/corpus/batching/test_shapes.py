"""Dealing questions out, laying responses into rows, and choosing few shapes: the arithmetic, without a corpus."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scotd_jax.corpus.batching.length_balancing import balance_lengths
from scotd_jax.corpus.batching.packing import first_fit, rows_needed
from scotd_jax.corpus.batching.shape_selection import MAX_PADDING, SelectedShapes, select_shapes
from scotd_jax.corpus.batching.shapes import Shape, TextLengths, cost, padding

lengths = st.lists(st.integers(0, 20), min_size=1, max_size=12)


def test_first_fit_is_pinned():
    assert first_fit([3, 9, 5, 5, 1], 10) == [[1, 4], [2, 3], [0]]
    with pytest.raises(ValueError, match="a text of 11 tokens does not fit into a row of 10"):
        first_fit([11], 10)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(lengths, min_size=1, max_size=5), width=st.integers(20, 50))
def test_rows_needed_are_those_of_first_fit(rows, width):
    """The lines at once against the plain loop; 0 is no text."""
    padded = np.zeros((len(rows), 12), int)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    laid = [first_fit([length for length in row if length], width) for row in rows]
    assert rows_needed(padded, width).tolist() == [len(each) for each in laid]
    for row, each in zip(rows, laid, strict=True):
        real = [length for length in row if length]
        assert sorted(itertools.chain(*each)) == list(range(len(real)))
        assert all(sum(real[i] for i in some) <= width for some in each)


def test_a_text_that_is_longer_than_a_row_needs_more_rows_than_there_can_be():
    assert rows_needed(np.array([[5, 1], [4, 4]]), 4).tolist() == [3, 2]


def fullest(sizes: np.ndarray, dealt: np.ndarray) -> float:
    """The fullest place in the worst column; 1 is what all would carry if they carried the same."""
    return float((sizes[dealt].sum(1).max(0) / (sizes.sum(0) / len(dealt))).max())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_dealing_is_nearly_as_good_as_the_best_of_all_ways(seed):
    sizes = np.random.default_rng(seed).integers(1, 50, (6, 2))
    dealt = balance_lengths(sizes, 2)
    assert sorted(dealt.flatten().tolist()) == list(range(6))
    ways = [np.array([a, [i for i in range(6) if i not in a]]) for a in itertools.combinations(range(6), 3)]
    assert fullest(sizes, dealt) <= 1.25 * min(fullest(sizes, way) for way in ways)


def test_dealing_balances_prompts_and_responses_at_once():
    rng = np.random.default_rng(0)
    sizes = np.stack([rng.lognormal(3.7, 0.3, 512), rng.lognormal(4.2, 0.6, 512)], 1).astype(int)
    dealt = balance_lengths(sizes, 16)
    assert fullest(sizes, dealt) < 1.02 < 1.1 < fullest(sizes, np.arange(512).reshape(16, 32))
    assert (dealt == np.sort(dealt, 1)).all()
    np.testing.assert_array_equal(balance_lengths(sizes, 16), dealt)
    assert balance_lengths(sizes[:4], 4).tolist() == [[0], [1], [2], [3]]
    with pytest.raises(ValueError, match="5 questions cannot be divided into 2 equal groups"):
        balance_lengths(sizes[:5], 2)


def batches(B: int, G: int, low: int, high: int, count: int = 16) -> list[dict[str, TextLengths]]:
    rng = np.random.default_rng(1)
    return [{"train": TextLengths(rng.integers(20, 41, B), rng.integers(low, high + 1, (B, G)))} for _ in range(count)]


def plain(B: int, G: int, response: int) -> dict[str, Shape]:
    return {"train": Shape(B, 40, G, response, packed=False)}


@pytest.mark.parametrize(("G", "at_most"), [(1, 4), (6, 3), (6, 4), (6, 2)])
def test_few_shapes_take_all_batches_and_little_is_padding(G, at_most):
    seen, later = batches(16, G, 5, 60), batches(16, G, 5, 60, 64)[16:]
    choice = select_shapes(seen, plain(16, G, 64), at_most, row_multiple=2)
    assert 2 <= len(choice.shapes) <= at_most
    assert choice.shapes[-1] == plain(16, G, 64)
    assert [cost(s) for s in choice.shapes] == sorted(cost(s) for s in choice.shapes)
    taken = []
    for batch in later:
        shapes, dealt = choice.assign(batch)
        taken.append(shapes)
        shape = shapes["train"]
        assert sorted(dealt.flatten().tolist()) == list(range(16))
        assert dealt.shape[0] == shape.rows == 16 // (choice.questions_per_row if shape.packed else 1)
        assert shape.rows % 2 == 0
        for row in dealt:
            assert batch["train"].prompts[row].sum() <= shape.prompt
            responses = batch["train"].responses[row].flatten().tolist()
            assert len(first_fit(responses, shape.response)) <= shape.group
    before = padding(later, [plain(16, G, 64)] * len(later))
    after = padding(later, taken)
    assert max(after) < (0.2 if at_most > 2 else 0.25) < before[1]


def test_texts_of_one_length_keep_the_plain_shape_alone():
    same = [{"train": TextLengths(np.full(8, 40), np.full((8, 3), 16))}] * 4
    assert select_shapes(same, plain(8, 3, 16), 4, 1) == SelectedShapes(1, (plain(8, 3, 16),))
    rounded = [{"train": TextLengths(np.full(8, 36), np.full((8, 3), 13))}] * 4
    assert select_shapes(rounded, plain(8, 3, 16), 4, 1) == SelectedShapes(1, (plain(8, 3, 16),))
    assert select_shapes(batches(8, 3, 5, 60), plain(8, 3, 64), 1, 1).shapes == (plain(8, 3, 64),)


def test_a_batch_that_is_larger_than_any_seen_takes_the_plain_shape():
    choice = select_shapes(batches(16, 2, 5, 30), plain(16, 2, 240), 4, 1)
    long = {"train": TextLengths(np.full(16, 40), np.full((16, 2), 240))}
    shapes, dealt = choice.assign(long)
    assert shapes == plain(16, 2, 240)
    assert dealt.tolist() == [[i] for i in range(16)]


def test_parts_share_their_rows_and_are_chosen_together():
    rng = np.random.default_rng(2)
    seen = [
        {
            "predict": TextLengths(rng.integers(20, 41, 16), rng.integers(2, 5, (16, 1))),
            "explain": TextLengths(rng.integers(20, 41, 16), rng.integers(5, 60, (16, 4))),
        }
        for _ in range(16)
    ]
    whole = {"predict": Shape(16, 40, 1, 8, packed=False), "explain": Shape(16, 40, 4, 64, packed=False)}
    choice = select_shapes(seen, whole, 4, 1)
    assert len(choice.shapes) > 1
    for shapes in choice.shapes:
        assert shapes["predict"].rows == shapes["explain"].rows
    taken = [choice.assign(batch)[0] for batch in seen]
    assert padding(seen, taken)[1] < 0.15 < padding(seen, [whole] * 16)[1]
    assert MAX_PADDING < 0.1
