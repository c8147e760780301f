"""Batch t is a function of (seed, t): exact resume, any number of processes, one permutation per epoch, keyed draws."""

import collections
import dataclasses
import itertools

import grain
import numpy as np
import pytest

from scotd_jax.corpus.batching.loader import CorpusBatches
from scotd_jax.corpus.grouped_example import GroupedExample
from scotd_jax.corpus.reader import CorpusReader
from scotd_jax.errors import InputError
from scotd_jax.keyed_random import random_permutation
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


def test_an_encoder_decoder_reads_the_whole_prompt_and_starts_from_its_own_token(corpus):
    batch = next(batch_iterator(corpus, **{**OPTIONS, "start_token": 77}))["train"]
    assert (batch["inputs"][:, :, 0] == 77).all()
    assert batch["prompt"].shape == (4, 16)  # nine tokens, of which a decoder-only model has eight in its prefix
    for row in range(4):
        prompt = grouped(question(batch, row)).prompt
        assert batch["prompt"][row][batch["prompt_mask"][row]].tolist() == prompt


def test_resume_is_exact_at_every_position(corpus):
    grain.experimental.assert_equal_output_after_checkpoint(batch_dataset(corpus, **OPTIONS)[:12].to_iter_dataset())


def test_resume_of_the_loader_itself_with_its_read_ahead(corpus):
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


@pytest.mark.parametrize("processes", [2, 4])
def test_batches_do_not_depend_on_the_number_of_processes(corpus, processes):
    whole = batch_dataset(corpus, **OPTIONS)
    parts = [batch_dataset(corpus, **OPTIONS, process_index=p, process_count=processes) for p in range(processes)]
    for t in range(6):
        for name, array in whole[t]["train"].items():
            np.testing.assert_array_equal(np.concatenate([part[t]["train"][name] for part in parts]), array)


def test_processes_share_a_batch_equally(corpus):
    with pytest.raises(InputError, match="batch_size 4 is not a multiple of the 3 processes"):
        batch_iterator(corpus, **OPTIONS, process_count=3)


def test_every_epoch_visits_every_question_once_in_another_order(corpus):
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


def drawn(batches, visits):
    """For every question the samples (k) that each of `visits` epochs drew."""
    draws = collections.defaultdict(list)
    for row in range(visits * QUESTIONS):
        prompt, responses = batches.texts(row)["train"]
        draws[prompt[-1] - 50].append([response[0] % 100 for response in responses])
    return draws


def test_g_of_n_are_distinct_keyed_by_name_and_evenly_drawn(corpus):
    reader = CorpusReader(corpus, "train")
    draws = drawn(CorpusBatches({"train": reader}, **{**OPTIONS, "group_size": 3}), visits=400)
    for i, visits in draws.items():
        if i == 9:
            assert visits == [[0, 0, 0]] * 400  # fewer than G: its samples are repeated
            continue
        assert all(len(set(visit)) == 3 for visit in visits)
        counts = collections.Counter(itertools.chain(*visits))
        assert sorted(counts) == list(range(SAMPLES))
        assert all(abs(count - 200) < 5 * np.sqrt(200) for count in counts.values())
    assert len({str(visits) for visits in draws.values()}) == QUESTIONS  # questions draw apart from each other


def test_g_equal_n_shows_every_sample_at_every_visit(corpus):
    draws = drawn(
        CorpusBatches({"train": CorpusReader(corpus, "train")}, **{**OPTIONS, "group_size": SAMPLES}), visits=3
    )
    assert all(sorted(visit) == list(range(SAMPLES)) for i in range(9) for visit in draws[i])


def test_random_permutation_is_pinned():
    """Runs that were begun must go on alike: these values never change."""
    assert random_permutation(8, "epoch", 0, 0).tolist() == PINNED
    assert random_permutation(8, "epoch", 0, 1).tolist() != PINNED
    assert sorted(random_permutation(1000, "x").tolist()) == list(range(1000))


def test_damage_reaches_the_caller_through_the_read_ahead(tmp_path):
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
    """Part "one" has a question's six samples in one record, part "each" in a record each; question 9 has one."""
    folders = {}
    for balance in ("questions", "responses"):
        folder = tmp_path_factory.mktemp(balance)
        split = [
            dataclasses.replace(example, responses=[response], sample_index=[k])
            for example in map(grouped, range(QUESTIONS))
            for k, response in zip(example.sample_index, example.responses, strict=True)
        ]
        write_corpus(folder, "one", map(grouped, range(QUESTIONS)), 3, balance=balance)
        write_corpus(folder, "each", split, 3, balance=balance)
        folders[balance] = folder
    return folders


def test_records_of_a_question_are_found_by_their_question(several):
    reader = CorpusReader(several["questions"], "each")
    assert (reader.entries, len(reader)) == (QUESTIONS, 9 * SAMPLES + 1)
    for entry in range(QUESTIONS):
        examples = [reader[i] for i in reader.records(entry)]
        assert {example.question_id for example in examples} == {f"q{entry}"}
        assert [k for example in examples for k in example.sample_index] == grouped(entry).sample_index
    with pytest.raises(IndexError):
        reader[len(reader)]


def test_every_question_comes_equally_often_and_its_records_too(several):
    batches = CorpusBatches({"each": CorpusReader(several["questions"], "each")}, **OPTIONS)
    seen = collections.Counter()
    for row in range(400 * QUESTIONS):
        _, (response,) = batches.texts(row)["each"]
        seen[response[0]] += 1
    for i in range(9):
        counts = [seen[100 * (i + 1) + k] for k in range(SAMPLES)]
        assert sum(counts) == 400
        assert all(abs(count - 400 / 6) < 5 * np.sqrt(400 / 6) for count in counts)
    assert seen[1000] == 400


def test_balanced_over_responses_every_record_comes_once_an_epoch(several):
    reader = CorpusReader(several["responses"], "each")
    batches = CorpusBatches({"each": reader}, **OPTIONS)
    assert reader.entries == len(reader)
    for epoch in range(3):
        rows = [batches.texts(epoch * len(reader) + i)["each"][1][0][0] for i in range(len(reader))]
        assert sorted(rows) == sorted(r[0] for i in range(QUESTIONS) for r in grouped(i).responses)


def test_parts_show_the_same_question_and_the_same_sample_first(several):
    batches = batch_dataset(several["questions"], ("one", "each"), **OPTIONS)
    for step in range(10):
        one, each = batches[step]["one"]["targets"], batches[step]["each"]["targets"]
        assert one.shape == (4, 2, 16)
        assert each.shape == (4, 1, 16)
        np.testing.assert_array_equal(one[:, 0], each[:, 0])


def test_parts_of_other_questions_are_refused(several, tmp_path):
    write_corpus(tmp_path, "a", map(grouped, [0, 1]), 1)
    write_corpus(tmp_path, "b", map(grouped, [1, 0]), 1)
    with pytest.raises(InputError, match="part 'b' of the corpus holds other questions than 'a'"):
        batch_iterator(tmp_path, ("a", "b"), **OPTIONS)
    with pytest.raises(InputError, match="part 'each' of the corpus holds other questions than 'one'"):
        batch_iterator(several["responses"], ("one", "each"), **OPTIONS)


def test_the_index_by_question_must_be_there_and_of_this_build(several, tmp_path):
    for path in several["questions"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = tmp_path / "each-00001-of-00003.tfrecord.questions"
    other = (tmp_path / "each-00002-of-00003.tfrecord.questions").read_bytes()
    for damage, message in [
        (index.read_bytes()[:-1] + b"\x01", "damaged"),
        (other, "expected 3 questions with 18 records"),
        (b"{}\n", "not an index of format scotd_jax.question_index"),
    ]:
        index.write_bytes(damage)
        with pytest.raises(InputError, match=f"{index.name}: {message}"):
            CorpusReader(tmp_path, "each")
    index.unlink()
    with pytest.raises(InputError, match=f"{index.name}: no such file"):
        CorpusReader(tmp_path, "each")
