"""Batches as a function of (seed, step): exact resume, any number of processes, permutations per epoch, keyed draws."""

import collections
import dataclasses
import itertools

import grain
import numpy as np
import pytest

from scotd_jax.corpus.batching.curriculum import disagreements
from scotd_jax.corpus.batching.epochs import make_epochs
from scotd_jax.corpus.batching.loader import CorpusBatches
from scotd_jax.corpus.grouped_example import GroupedExample
from scotd_jax.corpus.reader import CorpusReader
from scotd_jax.errors import InputError
from scotd_jax.keyed_random import random_permutation
from scotd_jax.records import Response
from tests.helpers.corpus_files import batch_dataset, batch_iterator, write_corpus

QUESTIONS, SAMPLES = 10, 6
PINNED = [7, 6, 1, 5, 0, 3, 2, 4]
OPTIONS = {"batch_size": 4, "group_size": 2, "start_token": None, "seed": 5}


def grouped(i: int) -> GroupedExample:
    """Question i ends with 50 + i and its sample k begins with 100 * (i + 1) + k; question 9 has one sample only."""
    samples = 1 if i == 9 else SAMPLES
    responses = [[100 * (i + 1) + k, *range(1, 1 + (i + k) % 9)] for k in range(samples)]
    return GroupedExample(f"q{i}", "t", [900, *range(i % 8), 50 + i], responses, list(range(samples)))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, "train", map(grouped, range(QUESTIONS)), 3)
    return folder


def question(batch, row):
    return int(batch["targets"][row, 0, 0]) // 100 - 1


def test_layout_of_a_decoder_only_batch(corpus):
    batch = next(batch_iterator(corpus, **OPTIONS))["train"]
    shapes = {name: (array.shape, array.dtype.name) for name, array in batch.items()}
    assert shapes == {
        "prompt": ((4, 8), "int32"),
        "prompt_mask": ((4, 8), "bool"),
        "inputs": ((4, 2, 16), "int32"),
        "targets": ((4, 2, 16), "int32"),
        "weights": ((4, 2, 16), "float32"),
    }
    for row in range(4):
        example = grouped(question(batch, row))
        assert batch["prompt"][row][batch["prompt_mask"][row]].tolist() == example.prompt[:-1]
        for g in range(2):
            length = int(batch["weights"][row, g].sum())
            target = batch["targets"][row, g]
            assert target[:length].tolist() in example.responses
            assert batch["weights"][row, g].tolist() == [1.0] * length + [0.0] * (16 - length)
            assert not target[length:].any()
            inputs = batch["inputs"][row, g]
            assert inputs[:length].tolist() == [example.prompt[-1], *target[: length - 1].tolist()]


def test_encoder_decoder_batch_has_the_whole_prompt_and_its_own_start_token(corpus):
    batch = next(batch_iterator(corpus, **{**OPTIONS, "start_token": 77}))["train"]
    assert (batch["inputs"][:, :, 0] == 77).all()
    assert batch["prompt"].shape == (4, 16)  # up to nine tokens, eight of them in the prefix of a decoder-only model
    for row in range(4):
        prompt = grouped(question(batch, row)).prompt
        assert batch["prompt"][row][batch["prompt_mask"][row]].tolist() == prompt


def test_resume_is_exact_at_every_step(corpus):
    grain.experimental.assert_equal_output_after_checkpoint(batch_dataset(corpus, **OPTIONS)[:12].to_iter_dataset())


def test_prefetching_loader_resumes_exactly(corpus):
    loader = batch_iterator(corpus, **OPTIONS)
    states, batches = [], []
    for _ in range(9):
        states.append(loader.get_state())
        batches.append(next(loader))
    assert states == [{"next_index": t} for t in range(9)]
    other = batch_iterator(corpus, **OPTIONS)
    for t in [8, 0, 5, 3, 7]:
        other.set_state(states[t])
        np.testing.assert_equal(next(other), batches[t])


@pytest.mark.parametrize("layout", [{}, {"balance_window": 2}, {"balance_window": 2, "max_shapes": 3}])
@pytest.mark.parametrize("processes", [2, 4])
def test_batches_do_not_depend_on_the_number_of_processes(corpus, processes, layout):
    options = OPTIONS | layout | {"row_multiple": 4}
    whole = batch_dataset(corpus, **options)
    parts = [batch_dataset(corpus, **options, process_index=p, process_count=processes) for p in range(processes)]
    for t in range(6):
        for name, array in whole[t]["train"].items():
            np.testing.assert_array_equal(np.concatenate([part[t]["train"][name] for part in parts]), array)


def test_processes_must_divide_the_batch(corpus):
    with pytest.raises(InputError, match="batch_size 4 is not a multiple of the 3 processes"):
        batch_iterator(corpus, **OPTIONS, process_count=3)


def test_every_epoch_is_another_permutation_of_the_questions(corpus):
    batches = batch_dataset(corpus, **{**OPTIONS, "batch_size": 5})
    epochs = [[question(batches[t]["train"], row) for t in (2 * e, 2 * e + 1) for row in range(5)] for e in range(4)]
    assert all(sorted(epoch) == list(range(QUESTIONS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    other = batch_dataset(corpus, **{**OPTIONS, "batch_size": 5, "seed": 6})
    assert [question(other[0]["train"], row) for row in range(5)] != epochs[0][:5]


def test_order_and_draws_do_not_depend_on_shards_or_batch_size(corpus, tmp_path):
    write_corpus(tmp_path, "train", map(grouped, range(QUESTIONS)), 1)
    four = batch_dataset(corpus, **OPTIONS)
    one = batch_dataset(tmp_path, **{**OPTIONS, "batch_size": 1})
    for i in range(20):
        np.testing.assert_array_equal(four[i // 4]["train"]["targets"][i % 4], one[i]["train"]["targets"][0])


def drawn_samples(batches, epochs):
    """{question: one list per epoch of the samples drawn in it}."""
    draws = collections.defaultdict(list)
    for position in range(epochs * QUESTIONS):
        prompt, responses = batches.texts(position)["train"]
        draws[prompt[-1] - 50].append([response[0] % 100 for response in responses])
    return draws


@pytest.mark.slow
def test_draws_of_g_from_n_samples_are_distinct_independent_and_uniform(corpus):
    reader = CorpusReader(corpus, "train")
    draws = drawn_samples(CorpusBatches({"train": reader}, **{**OPTIONS, "group_size": 3}), epochs=400)
    for i, samples in draws.items():
        if i == 9:
            assert samples == [[0, 0, 0]] * 400  # fewer than G samples are repeated
            continue
        assert all(len(set(drawn)) == 3 for drawn in samples)
        counts = collections.Counter(itertools.chain(*samples))
        assert sorted(counts) == list(range(SAMPLES))
        assert all(abs(count - 200) < 5 * np.sqrt(200) for count in counts.values())
    assert len({str(samples) for samples in draws.values()}) == QUESTIONS  # questions draw independently


def test_g_equal_to_n_draws_every_sample_in_every_epoch(corpus):
    draws = drawn_samples(
        CorpusBatches({"train": CorpusReader(corpus, "train")}, **{**OPTIONS, "group_size": SAMPLES}), epochs=3
    )
    assert all(sorted(drawn) == list(range(SAMPLES)) for i in range(9) for drawn in draws[i])


def test_random_permutation_is_pinned():
    """Interrupted runs must resume with the same data, so these values never change."""
    assert random_permutation(8, "epoch", 0, 0).tolist() == PINNED
    assert random_permutation(8, "epoch", 0, 1).tolist() != PINNED
    assert sorted(random_permutation(1000, "x").tolist()) == list(range(1000))


def test_damaged_record_raises_through_the_prefetching_loader(tmp_path):
    write_corpus(tmp_path, "train", map(grouped, range(QUESTIONS)), 1)
    shard = tmp_path / "train-00000-of-00001.tfrecord"
    data = bytearray(shard.read_bytes())
    data[-10] ^= 1
    shard.write_bytes(data)
    loader = batch_iterator(tmp_path, **OPTIONS)
    with pytest.raises(InputError, match=rf"{shard.name} record 9: the checksum"):
        list(itertools.islice(loader, 3))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Corpora with two parts, by their `balance`.

    Part "grouped" has the samples of a question in one record; part "split" has one record per sample.
    """
    folders = {}
    for balance in ("questions", "responses"):
        folder = tmp_path_factory.mktemp(balance)
        split = [
            dataclasses.replace(example, responses=[response], sample_index=[k])
            for example in map(grouped, range(QUESTIONS))
            for k, response in zip(example.sample_index, example.responses, strict=True)
        ]
        write_corpus(folder, "grouped", map(grouped, range(QUESTIONS)), 3, balance=balance)
        write_corpus(folder, "split", split, 3, balance=balance)
        folders[balance] = folder
    return folders


def test_reader_finds_all_records_of_a_question(several):
    reader = CorpusReader(several["questions"], "split")
    assert (reader.entries, len(reader)) == (QUESTIONS, 9 * SAMPLES + 1)
    for entry in range(QUESTIONS):
        examples = [reader[i] for i in reader.records(entry)]
        assert {example.question_id for example in examples} == {f"q{entry}"}
        assert [k for example in examples for k in example.sample_index] == grouped(entry).sample_index
    with pytest.raises(IndexError):
        reader[len(reader)]


@pytest.mark.slow
def test_questions_and_their_records_are_drawn_equally_often(several):
    batches = CorpusBatches({"split": CorpusReader(several["questions"], "split")}, **OPTIONS)
    seen = collections.Counter()
    for row in range(400 * QUESTIONS):
        _, (response,) = batches.texts(row)["split"]
        seen[response[0]] += 1
    for i in range(9):
        counts = [seen[100 * (i + 1) + k] for k in range(SAMPLES)]
        assert sum(counts) == 400
        assert all(abs(count - 400 / 6) < 5 * np.sqrt(400 / 6) for count in counts)
    assert seen[1000] == 400  # the only sample of question 9


def test_corpus_balanced_over_responses_draws_every_record_once_per_epoch(several):
    reader = CorpusReader(several["responses"], "split")
    batches = CorpusBatches({"split": reader}, **OPTIONS)
    assert reader.entries == len(reader)
    for epoch in range(3):
        first_tokens = [batches.texts(epoch * len(reader) + i)["split"][1][0][0] for i in range(len(reader))]
        assert sorted(first_tokens) == sorted(r[0] for i in range(QUESTIONS) for r in grouped(i).responses)


def test_parts_draw_the_same_question_and_the_same_first_sample(several):
    batches = batch_dataset(several["questions"], ("grouped", "split"), **OPTIONS)
    for step in range(10):
        grouped_targets, split_targets = batches[step]["grouped"]["targets"], batches[step]["split"]["targets"]
        assert grouped_targets.shape == (4, 2, 16)
        assert split_targets.shape == (4, 1, 16)
        np.testing.assert_array_equal(grouped_targets[:, 0], split_targets[:, 0])


def test_parts_with_different_questions_are_refused(several, tmp_path):
    write_corpus(tmp_path, "a", map(grouped, [0, 1]), 1)
    write_corpus(tmp_path, "b", map(grouped, [1, 0]), 1)
    with pytest.raises(InputError, match="part 'b' of the corpus holds other questions than 'a'"):
        batch_iterator(tmp_path, ("a", "b"), **OPTIONS)
    with pytest.raises(InputError, match="part 'split' of the corpus holds other questions than 'grouped'"):
        batch_iterator(several["responses"], ("grouped", "split"), **OPTIONS)


def test_question_index_must_exist_and_match(several, tmp_path):
    for path in several["questions"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = tmp_path / "split-00001-of-00003.tfrecord.questions"
    other = (tmp_path / "split-00002-of-00003.tfrecord.questions").read_bytes()
    for damage, message in [
        (index.read_bytes()[:-1] + b"\x01", "damaged"),
        (other, "expected 3 questions and 18 records"),
        (b"{}\n", "not an index of format scotd_jax.question_index"),
    ]:
        index.write_bytes(damage)
        with pytest.raises(InputError, match=f"{index.name}: {message}"):
            CorpusReader(tmp_path, "split")
    index.unlink()
    with pytest.raises(InputError, match=f"{index.name}: no such file"):
        CorpusReader(tmp_path, "split")


def mixed(i: int) -> GroupedExample:
    """Questions 0 to 7 are of task "large", 8 and 9 of "small"."""
    return dataclasses.replace(grouped(i % 9), question_id=f"q{i}", task="large" if i < 8 else "small")


@pytest.fixture(scope="module")
def two_tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_tasks")
    write_corpus(folder, "train", map(mixed, range(QUESTIONS)), 3)
    return folder


def entries_of_epochs(folder, epochs: int, mixture: dict[str, float], seed: int = 5) -> list[list[tuple[int, int]]]:
    """Returns (entry, pass) at all positions of some epochs."""
    made = make_epochs(CorpusReader(folder, "train"), seed, mixture)
    return [list(zip(*(values.tolist() for values in made(epoch)), strict=True)) for epoch in range(epochs)]


def test_mixture_gives_every_task_its_share_of_each_epoch(two_tasks):
    epochs = entries_of_epochs(two_tasks, 8, {"large": 1.0, "small": 1.5})
    for epoch in epochs:
        assert [sum(entry < 8 for entry, _ in epoch), sum(entry >= 8 for entry, _ in epoch)] == [4, 6]
    # Every task passes over all its entries before it repeats one.
    counts = collections.Counter(entry for epoch in epochs for entry, _ in epoch)
    assert counts == dict.fromkeys(range(8), 4) | dict.fromkeys((8, 9), 24)
    drawn = [pair for epoch in epochs for pair in epoch]
    assert len(set(drawn)) == len(drawn), "an entry is drawn twice with the same key"
    assert epochs == entries_of_epochs(two_tasks, 8, {"large": 1.0, "small": 1.5})
    assert epochs != entries_of_epochs(two_tasks, 8, {"large": 1.0, "small": 1.5}, seed=6)


def test_batches_follow_the_mixture(two_tasks):
    readers = {"train": CorpusReader(two_tasks, "train")}
    batches = CorpusBatches(readers, **OPTIONS, mixture={"large": 1.0, "small": 4.0})
    tasks = [int(batches.texts(position)["train"][0][-1] - 50) for position in range(2 * QUESTIONS)]
    assert sum(task in (8, 0) for task in tasks) >= 16  # questions 8 and 9, which end like 8 and 0
    plain, same = (CorpusBatches(readers, **OPTIONS, mixture=mixture) for mixture in (None, {}))
    assert [plain.texts(i) for i in range(30)] == [same.texts(i) for i in range(30)]


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (
            {"large": 1.0},
            "'small' is only in the mixture or only in the corpus, whose questions have the tasks large, small",
        ),
        ({"large": 1.0, "small": 1.0, "other": 1.0}, "'other' is only"),
        ({"large": 1.0, "small": 0.01}, "the share of 'small' is less than one of 10 questions"),
    ],
)
def test_mixtures_that_do_not_fit_the_corpus_are_refused(two_tasks, mixture, message):
    with pytest.raises(InputError, match=message):
        entries_of_epochs(two_tasks, 1, mixture)


def test_curriculum_sorts_every_epoch_and_leaves_ties_in_random_order(corpus, two_tasks):
    difficulty = {f"q{i}": float(i // 5) for i in range(QUESTIONS)}  # questions 0 to 4 are easy
    made = make_epochs(CorpusReader(corpus, "train"), 5, None, difficulty)
    epochs = [made(epoch) for epoch in range(3)]
    for epoch, number in zip(epochs, range(3), strict=True):
        assert sorted(epoch.entries.tolist()) == list(range(QUESTIONS))
        assert set(epoch.entries[:5].tolist()) == set(range(5))
        assert epoch.passes.tolist() == [number] * QUESTIONS
    assert len({tuple(epoch.entries[:5].tolist()) for epoch in epochs}) > 1
    mixture = {"large": 1.0, "small": 1.5}
    mixed_epoch = make_epochs(CorpusReader(two_tasks, "train"), 5, mixture, difficulty)(2)
    pairs = entries_of_epochs(two_tasks, 3, mixture)[2]
    assert sorted(zip(*(values.tolist() for values in mixed_epoch), strict=True)) == sorted(pairs)
    assert (np.diff(mixed_epoch.entries // 5) >= 0).all()
    batches = CorpusBatches({"train": CorpusReader(corpus, "train")}, **OPTIONS, difficulty=difficulty)
    first_epoch = [int(batches.texts(position)["train"][0][-1] - 50) for position in range(QUESTIONS)]
    assert set(first_epoch[:5]) == set(range(5))


def test_difficulty_is_the_share_of_responses_without_the_most_frequent_answer():
    answers = {
        "sure": ["Paris", "paris ", "PARIS", "Rome"],
        "split": ["a", "b"],
        "unread": [None, None],
        "half": ["a", None],
    }
    rows = [
        Response(id_, k, "", None, answer, None, "stop", -1.0, 1, "m", "s")
        for id_, found in answers.items()
        for k, answer in enumerate(found)
    ]
    assert disagreements(rows) == {"sure": 1 / 4, "split": 1 / 2, "unread": 1.0, "half": 1 / 2}
