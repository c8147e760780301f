"""Windows and packed batches of a corpus: nothing is lost or doubled, all follows from corpus, seed and settings."""

import collections

import numpy as np
import pytest

from scotd_jax.corpus.batching.loader import open_batches
from scotd_jax.corpus.batching.savings import padding_savings
from scotd_jax.corpus.grouped_example import GroupedExample
from tests.corpus.test_real_corpora import CONFIG, SETS
from tests.helpers.corpus_files import batch_iterator, write_corpus

QUESTIONS = 60
OPTIONS = {"batch_size": 8, "group_size": 5, "start_token": None, "seed": 3, "balance_window": 4, "max_shapes": 5}


def grouped(i: int) -> GroupedExample:
    """Question i's prompt ends with 1000 + i, its response k begins with 10 * i + k; there are 1 to 7 of them."""
    rng = np.random.default_rng(i)
    responses = [[10 * i + k, *rng.integers(2000, 3000, rng.integers(0, 40)).tolist()] for k in range(1 + i % 7)]
    return GroupedExample(f"q{i}", "t", [*range(rng.integers(5, 30)), 1000 + i], responses, list(range(1 + i % 7)))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, "train", map(grouped, range(QUESTIONS)), 2)
    return folder


def unpacked(batch: dict[str, np.ndarray], start_token: int | None) -> list[tuple[list[int], list[int], float]]:
    """(prompt, response, weight) of every response of a packed batch, by its arrays alone."""
    found = []
    for i, g in np.ndindex(batch["inputs"].shape[:2]):
        real = batch["weights"][i, g] > 0
        begins = np.flatnonzero((batch["positions"][i, g] == 0) & real).tolist()
        for begin, end in zip(begins, [*begins[1:], int(real.sum())][: len(begins)], strict=True):
            mine = batch["prompt_mask"][i]
            if "questions" in batch:
                assert len(set(batch["questions"][i, g, begin:end].tolist())) == 1
                mine = mine & (batch["prompt_questions"][i] == batch["questions"][i, g, begin])
            inputs, targets = (batch[key][i, g, begin:end].tolist() for key in ("inputs", "targets"))
            assert batch["positions"][i, g, begin:end].tolist() == list(range(end - begin))
            assert inputs[1:] == targets[:-1]
            (weight,) = set(batch["weights"][i, g, begin:end].tolist())
            prompt = batch["prompt"][i][mine].tolist() + ([inputs[0]] if start_token is None else [])
            assert start_token is None or inputs[0] == start_token
            found.append((prompt, targets, weight))
    return found


@pytest.mark.parametrize("start_token", [None, 77])
@pytest.mark.parametrize("multiple", [1, 8])
def test_every_response_of_a_visit_is_there_once_with_the_weight_of_its_repetitions(corpus, start_token, multiple):
    batches = open_batches(corpus, **{**OPTIONS, "start_token": start_token, "row_multiple": multiple})
    assert (batches.selected_shapes.questions_per_row > 1) == (multiple < 8)
    for step in range(12):
        batch = batches[step]["train"]
        assert "positions" in batch
        expected = collections.Counter()
        for row in batches.positions(step):
            prompt, responses = batches.texts(row)["train"]
            expected.update((tuple(prompt), tuple(response)) for response in responses)
        found = {(tuple(prompt), tuple(response)): weight for prompt, response, weight in unpacked(batch, start_token)}
        assert found == expected
        assert len(unpacked(batch, start_token)) == len(found)
        assert not batch["targets"][batch["weights"] == 0].any()


def test_every_question_comes_equally_often(corpus):
    batches = open_batches(corpus, **OPTIONS)
    rows = [row for step in range(60) for row in batches.positions(step)]
    assert sorted(rows) == list(range(480)), "eight epochs of sixty questions"
    assert rows != sorted(rows)
    for window in range(15):  # a window's rows stay in it, so a cut run resumes without reading what came before
        some = [row for step in range(4 * window, 4 * window + 4) for row in batches.positions(step)]
        assert sorted(some) == list(range(32 * window, 32 * window + 32))


def test_a_window_makes_batches_of_a_size_and_never_spans_more_than_an_epoch(corpus):
    def tokens(window: int) -> list[int]:
        batches = open_batches(corpus, **{**OPTIONS, "balance_window": window})
        shown = [{tuple(r) for i in batches.positions(t) for r in batches.texts(i)["train"][1]} for t in range(28)]
        return [sum(map(len, responses)) for responses in shown]

    dealt, plain = tokens(7), tokens(1)
    assert np.std(dealt) < 0.5 * np.std(plain)
    assert tokens(100) == dealt, "sixty questions are seven batches of eight"


def test_which_questions_make_a_batch_depends_on_neither_shapes_nor_devices(corpus):
    ways = [{}, {"max_shapes": 1}, {"row_multiple": 4}, {"row_multiple": 8}, {"process_count": 4, "process_index": 3}]
    rows = [[open_batches(corpus, **{**OPTIONS, **way}).positions(t) for t in range(9)] for way in ways]
    assert all(each == rows[0] for each in rows)
    assert [open_batches(corpus, **{**OPTIONS, "seed": 4}).positions(t) for t in range(9)] != rows[0]


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("shapes", [1, 4])
def test_batches_do_not_depend_on_the_number_of_processes(corpus, processes, shapes):
    options = {**OPTIONS, "max_shapes": shapes, "row_multiple": 4}
    whole = open_batches(corpus, **options)
    parts = [open_batches(corpus, **options, process_index=p, process_count=processes) for p in range(processes)]
    assert all(part.selected_shapes == whole.selected_shapes for part in parts)
    for t in range(9):
        pieces = [part[t]["train"] for part in parts]
        for name, array in whole[t]["train"].items():
            np.testing.assert_array_equal(np.concatenate([piece[name] for piece in pieces]), array)


def test_resume_is_exact_within_a_window(corpus):
    loader = batch_iterator(corpus, **OPTIONS)
    batches = [next(loader) for _ in range(11)]
    for t in [10, 2, 7, 0]:
        other = batch_iterator(corpus, **OPTIONS)
        other.set_state({"next_index": t})
        np.testing.assert_equal(next(other), batches[t])


@pytest.mark.parametrize("at_most", [1, 2, 4])
def test_there_are_at_most_so_many_shapes(corpus, at_most):
    batches = open_batches(corpus, **{**OPTIONS, "max_shapes": at_most})
    shapes = {tuple((name, array.shape) for name, array in batches[t]["train"].items()) for t in range(100)}
    assert 1 <= len(shapes) <= at_most
    assert (at_most == 1) == (shapes == {tuple((n, a.shape) for n, a in batches[0]["train"].items())})
    assert ("positions" in batches[0]["train"]) == (at_most > 1)


def test_texts_of_one_length_are_never_packed(tmp_path):
    same = [GroupedExample(f"q{i}", "t", [1] * 21, [[i] * 11] * 3, [0, 1, 2]) for i in range(20)]
    write_corpus(tmp_path, "train", iter(same), 1)
    batches = open_batches(tmp_path, **OPTIONS)
    assert len(batches.selected_shapes.shapes) == 1
    assert batches[0]["train"]["inputs"].shape == (8, 3, 16)
    assert "positions" not in batches[0]["train"]


def test_the_gain_is_said(corpus):
    said = padding_savings(open_batches(corpus, **OPTIONS))
    # 1 to 5 responses of a question are shown
    assert said.startswith("3.48 responses share a question: 1.4 times fewer tokens than separate pairs; padding ")
    assert said.endswith(" shapes")
    alone = padding_savings(open_batches(corpus, **{**OPTIONS, "group_size": 1, "max_shapes": 1}))
    assert alone.startswith("every question comes with one response; padding ")
    assert alone.endswith("in 1 shape")


@pytest.fixture(scope="module")
def openbookqa(shared_data, tmp_path_factory):
    """A corpus of a tenth of OpenBookQA's training questions with their 22 rationales, in OPT's tokens."""
    from tests.helpers.cli import door

    folder = tmp_path_factory.mktemp("openbookqa")
    _, importer, responses, questions, dev = SETS["openbookqa"]
    text = CONFIG.format(
        data=str(shared_data),
        kind="openbookqa",
        options={},
        importer=importer,
        files=f"/rationales/{importer}/{responses}",
        questions=questions,
        dev=dev,
    )
    only = text.replace("for k in models", "for k in ('opt',)").replace(
        "for k, m in models.items()", "for k, m in [('opt', models['opt'])]"
    )
    (folder / "config.py").write_text(only)
    done = door(f"--config={folder}/config.py", f"--workdir={folder}/w", "--jobs=sample,build")
    assert done.returncode == 0, done.stderr
    return folder / "w/corpora/opt"


@pytest.mark.parametrize("group_size", [1, 5, 22])
def test_less_than_a_tenth_of_real_response_tokens_is_padding(openbookqa, group_size):
    options = {"batch_size": 32, "group_size": group_size, "start_token": None, "seed": 0}
    real = computed = 0
    shapes = set()
    batches = open_batches(openbookqa, **options, balance_window=16, max_shapes=5)
    for step in range(100, 148):  # not those by which the shapes were chosen
        weights = batches[step]["train"]["weights"]
        real, computed = real + (weights > 0).sum(), computed + weights.size
        shapes.add(weights.shape)
    before = open_batches(openbookqa, **options)[0]["train"]["weights"]
    assert 1 - real / computed < 0.1 < 0.6 < 1 - before.mean()
    assert len(shapes) <= 5
