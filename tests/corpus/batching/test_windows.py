"""Balance windows and packed batches hold every drawn response, and depend on corpus, seed and settings only."""

import collections

import numpy as np
import pytest

from scotd_jax.corpus.batching.loader import open_batches
from scotd_jax.corpus.batching.savings import padding_savings
from scotd_jax.corpus.grouped_example import GroupedExample
from tests.helpers.corpus_files import (
    PACKED_OPTIONS,
    UNEVEN_QUESTIONS,
    batch_iterator,
    uneven_example,
    write_corpus,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, "train", map(uneven_example, range(UNEVEN_QUESTIONS)), 2)
    return folder


def unpack(batch: dict[str, np.ndarray], start_token: int | None) -> list[tuple[list[int], list[int], float]]:
    """(prompt, response, weight) of every response of a packed batch, from its arrays alone."""
    found = []
    for i, g in np.ndindex(batch["inputs"].shape[:2]):
        real = batch["weights"][i, g] > 0
        begins = np.flatnonzero((batch["positions"][i, g] == 0) & real).tolist()
        ends = [*begins[1:], int(real.sum())][: len(begins)]  # empty if the row has no response
        for begin, end in zip(begins, ends, strict=True):
            prompt_mask = batch["prompt_mask"][i]
            if "questions" in batch:
                assert len(set(batch["questions"][i, g, begin:end].tolist())) == 1
                prompt_mask = prompt_mask & (batch["prompt_questions"][i] == batch["questions"][i, g, begin])
            inputs, targets = (batch[key][i, g, begin:end].tolist() for key in ("inputs", "targets"))
            assert batch["positions"][i, g, begin:end].tolist() == list(range(end - begin))
            assert inputs[1:] == targets[:-1]
            (weight,) = set(batch["weights"][i, g, begin:end].tolist())
            prompt = batch["prompt"][i][prompt_mask].tolist() + ([inputs[0]] if start_token is None else [])
            assert start_token is None or inputs[0] == start_token
            found.append((prompt, targets, weight))
    return found


@pytest.mark.parametrize("start_token", [None, 77])
@pytest.mark.parametrize("multiple", [1, 8])
def test_packed_batch_holds_every_drawn_response_once_weighted_by_its_repetitions(corpus, start_token, multiple):
    batches = open_batches(corpus, **{**PACKED_OPTIONS, "start_token": start_token, "row_multiple": multiple})
    assert (batches.selected_shapes.questions_per_row > 1) == (multiple < 8)
    for step in range(12):
        batch = batches[step]["train"]
        assert "positions" in batch
        expected = collections.Counter()
        for row in batches.positions(step):
            prompt, responses = batches.texts(row)["train"]
            expected.update((tuple(prompt), tuple(response)) for response in responses)
        found = {(tuple(prompt), tuple(response)): weight for prompt, response, weight in unpack(batch, start_token)}
        assert found == expected
        assert len(unpack(batch, start_token)) == len(found)
        assert not batch["targets"][batch["weights"] == 0].any()


def test_every_question_is_drawn_once_per_epoch(corpus):
    batches = open_batches(corpus, **PACKED_OPTIONS)
    rows = [row for step in range(60) for row in batches.positions(step)]
    assert sorted(rows) == list(range(480)), "eight epochs of sixty questions"
    assert rows != sorted(rows)
    for window in range(15):  # positions stay in their window, so that a resumed run reads no earlier window
        some = [row for step in range(4 * window, 4 * window + 4) for row in batches.positions(step)]
        assert sorted(some) == list(range(32 * window, 32 * window + 32))


def test_balance_window_evens_out_batches_and_spans_max_shapes_an_epoch(corpus):
    def tokens(window: int) -> list[int]:
        batches = open_batches(corpus, **{**PACKED_OPTIONS, "balance_window": window})
        drawn = [{tuple(r) for i in batches.positions(t) for r in batches.texts(i)["train"][1]} for t in range(28)]
        return [sum(map(len, responses)) for responses in drawn]

    balanced, unbalanced = tokens(7), tokens(1)
    assert np.std(balanced) < 0.5 * np.std(unbalanced)
    assert tokens(100) == balanced, "sixty questions are seven batches of eight"


def test_questions_of_a_batch_do_not_depend_on_shapes_or_devices(corpus):
    variants = [
        {},
        {"max_shapes": 1},
        {"row_multiple": 4},
        {"row_multiple": 8},
        {"process_count": 4, "process_index": 3},
    ]
    rows = [
        [open_batches(corpus, **{**PACKED_OPTIONS, **variant}).positions(t) for t in range(9)] for variant in variants
    ]
    assert all(variant_rows == rows[0] for variant_rows in rows)
    assert [open_batches(corpus, **{**PACKED_OPTIONS, "seed": 4}).positions(t) for t in range(9)] != rows[0]


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("shapes", [1, 4])
def test_batches_do_not_depend_on_the_number_of_processes(corpus, processes, shapes):
    options = {**PACKED_OPTIONS, "max_shapes": shapes, "row_multiple": 4}
    whole = open_batches(corpus, **options)
    parts = [open_batches(corpus, **options, process_index=p, process_count=processes) for p in range(processes)]
    assert all(part.selected_shapes == whole.selected_shapes for part in parts)
    for t in range(9):
        pieces = [part[t]["train"] for part in parts]
        for name, array in whole[t]["train"].items():
            np.testing.assert_array_equal(np.concatenate([piece[name] for piece in pieces]), array)


def test_resume_is_exact_within_a_window(corpus):
    loader = batch_iterator(corpus, **PACKED_OPTIONS)
    batches = [next(loader) for _ in range(11)]
    for t in [10, 2, 7, 0]:
        other = batch_iterator(corpus, **PACKED_OPTIONS)
        other.set_state({"next_index": t})
        np.testing.assert_equal(next(other), batches[t])


@pytest.mark.parametrize("max_shapes", [1, 2, 4])
def test_number_of_shapes_is_limited(corpus, max_shapes):
    batches = open_batches(corpus, **{**PACKED_OPTIONS, "max_shapes": max_shapes})
    shapes = {tuple((name, array.shape) for name, array in batches[t]["train"].items()) for t in range(100)}
    assert 1 <= len(shapes) <= max_shapes
    # All batches have one shape if and only if max_shapes is 1.
    assert (max_shapes == 1) == (shapes == {tuple((n, a.shape) for n, a in batches[0]["train"].items())})
    assert ("positions" in batches[0]["train"]) == (max_shapes > 1)


def test_texts_of_equal_length_are_not_packed(tmp_path):
    same = [GroupedExample(f"q{i}", "t", [1] * 21, [[i] * 11] * 3, [0, 1, 2]) for i in range(20)]
    write_corpus(tmp_path, "train", iter(same), 1)
    batches = open_batches(tmp_path, **PACKED_OPTIONS)
    assert len(batches.selected_shapes.shapes) == 1
    assert batches[0]["train"]["inputs"].shape == (8, 3, 16)
    assert "positions" not in batches[0]["train"]


def test_padding_savings_summary(corpus):
    summary = padding_savings(open_batches(corpus, **PACKED_OPTIONS))
    # 1 to 5 responses per question are drawn.
    assert summary.startswith("3.48 responses share a question: 1.4 times fewer tokens than separate pairs; padding ")
    assert summary.endswith(" shapes")
    alone = padding_savings(open_batches(corpus, **{**PACKED_OPTIONS, "group_size": 1, "max_shapes": 1}))
    assert alone.startswith("every question comes with one response; padding ")
    assert alone.endswith("in 1 shape")


@pytest.fixture
def openbookqa(real_corpora):
    """A corpus of a tenth of OpenBookQA train with 22 rationales per question, tokenized for OPT."""
    return real_corpora("openbookqa") / "corpora/opt"


@pytest.mark.exhaustive
@pytest.mark.parametrize("group_size", [1, 5, 22])
def test_less_than_a_tenth_of_openbookqa_response_tokens_is_padding(openbookqa, group_size):
    options = {"batch_size": 32, "group_size": group_size, "start_token": None, "seed": 0}
    real = computed = 0
    shapes = set()
    batches = open_batches(openbookqa, **options, balance_window=16, max_shapes=5)
    for step in range(100, 148):  # later batches than those by which the shapes were selected
        weights = batches[step]["train"]["weights"]
        real, computed = real + (weights > 0).sum(), computed + weights.size
        shapes.add(weights.shape)
    before = open_batches(openbookqa, **options)[0]["train"]["weights"]
    assert 1 - real / computed < 0.1 < 0.6 < 1 - before.mean()
    assert len(shapes) <= 5
