"""Length balancing, packing and shape selection on invented lengths."""

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


@settings(max_examples=200)
@given(rows=st.lists(lengths, min_size=1, max_size=5), width=st.integers(20, 50))
def test_rows_needed_matches_first_fit(rows, width):
    padded = np.zeros((len(rows), 12), int)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    packings = [first_fit([length for length in row if length], width) for row in rows]
    assert rows_needed(padded, width).tolist() == [len(packing) for packing in packings]
    for row, packing in zip(rows, packings, strict=True):
        real = [length for length in row if length]
        assert sorted(itertools.chain(*packing)) == list(range(len(real)))
        assert all(sum(real[i] for i in members) <= width for members in packing)


def test_rows_needed_marks_texts_longer_than_a_row():
    assert rows_needed(np.array([[5, 1], [4, 4]]), 4).tolist() == [3, 2]


def imbalance(lengths: np.ndarray, groups: np.ndarray) -> float:
    """Load of the fullest group relative to the mean, in the worst column."""
    return float((lengths[groups].sum(1).max(0) / (lengths.sum(0) / len(groups))).max())


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_balancing_is_close_to_the_optimum(seed):
    sizes = np.random.default_rng(seed).integers(1, 50, (6, 2))
    groups = balance_lengths(sizes, 2)
    assert sorted(groups.flatten().tolist()) == list(range(6))
    assignments = [np.array([a, [i for i in range(6) if i not in a]]) for a in itertools.combinations(range(6), 3)]
    assert imbalance(sizes, groups) <= 1.25 * min(imbalance(sizes, groups) for groups in assignments)


def test_balancing_evens_out_prompts_and_responses_together():
    rng = np.random.default_rng(0)
    sizes = np.stack([rng.lognormal(3.7, 0.3, 512), rng.lognormal(4.2, 0.6, 512)], 1).astype(int)
    groups = balance_lengths(sizes, 16)
    assert imbalance(sizes, groups) < 1.02 < 1.1 < imbalance(sizes, np.arange(512).reshape(16, 32))
    assert (groups == np.sort(groups, 1)).all()
    np.testing.assert_array_equal(balance_lengths(sizes, 16), groups)
    assert balance_lengths(sizes[:4], 4).tolist() == [[0], [1], [2], [3]]
    with pytest.raises(ValueError, match="5 questions cannot be divided into 2 equal groups"):
        balance_lengths(sizes[:5], 2)


def batches(B: int, G: int, low: int, high: int, count: int = 16) -> list[dict[str, TextLengths]]:
    """Lengths of `count` batches of B questions with G responses of `low` to `high` tokens each."""
    rng = np.random.default_rng(1)
    return [{"train": TextLengths(rng.integers(20, 41, B), rng.integers(low, high + 1, (B, G)))} for _ in range(count)]


def plain(B: int, G: int, response: int) -> dict[str, Shape]:
    """The shape of a batch that is not packed."""
    return {"train": Shape(B, 40, G, response, packed=False)}


@pytest.mark.parametrize(("G", "max_shapes"), [(1, 4), (6, 3), (6, 4), (6, 2)])
def test_selected_shapes_fit_later_batches_with_little_padding(G, max_shapes):
    seen, later = batches(16, G, 5, 60), batches(16, G, 5, 60, 64)[16:]
    selected = select_shapes(seen, plain(16, G, 64), max_shapes, row_multiple=2)
    assert 2 <= len(selected.shapes) <= max_shapes
    assert selected.shapes[-1] == plain(16, G, 64)
    assert [cost(s) for s in selected.shapes] == sorted(cost(s) for s in selected.shapes)
    taken = []
    for batch in later:
        shapes, groups = selected.assign(batch)
        taken.append(shapes)
        shape = shapes["train"]
        assert sorted(groups.flatten().tolist()) == list(range(16))
        assert groups.shape[0] == shape.rows == 16 // (selected.questions_per_row if shape.packed else 1)
        assert shape.rows % 2 == 0
        for row in groups:
            assert batch["train"].prompts[row].sum() <= shape.prompt
            responses = batch["train"].responses[row].flatten().tolist()
            assert len(first_fit(responses, shape.response)) <= shape.group
    before = padding(later, [plain(16, G, 64)] * len(later))
    after = padding(later, taken)
    assert max(after) < (0.2 if max_shapes > 2 else 0.25) < before[1]


def test_texts_of_equal_length_get_only_the_plain_shape():
    same = [{"train": TextLengths(np.full(8, 40), np.full((8, 3), 16))}] * 4
    assert select_shapes(same, plain(8, 3, 16), 4, 1) == SelectedShapes(1, (plain(8, 3, 16),))
    rounded = [{"train": TextLengths(np.full(8, 36), np.full((8, 3), 13))}] * 4
    assert select_shapes(rounded, plain(8, 3, 16), 4, 1) == SelectedShapes(1, (plain(8, 3, 16),))
    assert select_shapes(batches(8, 3, 5, 60), plain(8, 3, 64), 1, 1).shapes == (plain(8, 3, 64),)


def test_batch_longer_than_all_previewed_gets_the_plain_shape():
    selected = select_shapes(batches(16, 2, 5, 30), plain(16, 2, 240), 4, 1)
    long = {"train": TextLengths(np.full(16, 40), np.full((16, 2), 240))}
    shapes, groups = selected.assign(long)
    assert shapes == plain(16, 2, 240)
    assert groups.tolist() == [[i] for i in range(16)]


def test_shapes_of_all_parts_are_selected_together_and_share_rows():
    rng = np.random.default_rng(2)
    seen = [
        {
            "predict": TextLengths(rng.integers(20, 41, 16), rng.integers(2, 5, (16, 1))),
            "explain": TextLengths(rng.integers(20, 41, 16), rng.integers(5, 60, (16, 4))),
        }
        for _ in range(16)
    ]
    whole = {"predict": Shape(16, 40, 1, 8, packed=False), "explain": Shape(16, 40, 4, 64, packed=False)}
    selected = select_shapes(seen, whole, 4, 1)
    assert len(selected.shapes) > 1
    for shapes in selected.shapes:
        assert shapes["predict"].rows == shapes["explain"].rows
    taken = [selected.assign(batch)[0] for batch in seen]
    assert padding(seen, taken)[1] < 0.15 < padding(seen, [whole] * 16)[1]
    assert MAX_PADDING < 0.1
