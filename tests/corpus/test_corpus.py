"""Corpora: grouped examples, deterministic bytes, reading by TensorFlow and TFDS, refusal of incomplete corpora."""

import errno
import hashlib
import json
import os

import pytest
import tensorflow as tf

from scotd_jax.corpus import description, shards, tf_example
from scotd_jax.corpus.grouped_example import FEATURES, GroupedExample
from scotd_jax.corpus.reader import CorpusReader
from scotd_jax.corpus.tfds import features
from scotd_jax.errors import InputError
from tests.helpers.corpus_files import write_corpus

META = {"tokenizer": "invented", "n": 30}


def grouped(i: int, responses: int = 2) -> GroupedExample:
    lengths = [1 + (i + k) % 5 for k in range(responses)]
    return GroupedExample(
        question_id=f"world/train/{i}é",
        task="world",
        prompt=list(range(10, 13 + i % 4)),
        responses=[[100 * i + k] * length for k, length in enumerate(lengths)],
        sample_index=[3 * k for k in range(responses)],
    )


def files(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_examples_round_trip_in_order_for_any_number_of_shards(tmp_path):
    examples = [grouped(i) for i in range(7)]
    for count in [1, 3, 7]:
        write_corpus(tmp_path, "train", iter(examples), count, META)
        reader = CorpusReader(tmp_path, "train")
        assert [reader[i] for i in range(len(reader))] == examples
        assert len(list(tmp_path.glob("*.tfrecord"))) == count


def test_there_are_no_more_shards_than_examples(tmp_path):
    saved = write_corpus(tmp_path, "train", [grouped(0), grouped(1)], 4, META)
    assert [f["name"] for f in saved["files"]] == [f"train-0000{i}-of-00002.tfrecord" for i in range(2)]


def test_equal_input_gives_equal_bytes(tmp_path):
    for name in ["a", "b"]:
        write_corpus(tmp_path / name, "train", (grouped(i) for i in range(9)), 2, META)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_tensorflow_parses_the_documented_features(tmp_path):
    examples = [grouped(i, responses=1 + i % 3) for i in range(5)]
    write_corpus(tmp_path, "train", examples, 2, META)
    schema = {name: tf.io.VarLenFeature(tf.string if "bytes" in text else tf.int64) for name, text in FEATURES.items()}
    paths = sorted(tf.io.gfile.glob(f"{tmp_path}/train-*.tfrecord"))
    seen = {}
    for record in tf.data.TFRecordDataset(paths):
        row = {k: v.values.numpy().tolist() for k, v in tf.io.parse_single_example(record, schema).items()}
        seen[row["question_id"][0].decode()] = row
    for original in examples:
        row = seen.pop(original.question_id)
        assert row["task"] == [b"world"]
        assert row["prompt"] == original.prompt
        assert row["responses"] == [token for response in original.responses for token in response]
        assert row["response_lengths"] == [len(r) for r in original.responses]
        assert row["sample_index"] == original.sample_index
    assert seen == {}


def test_counts_and_grouping_gain(tmp_path):
    example = GroupedExample("q", "t", [1] * 60, [[2] * 60] * 30, list(range(30)))
    counts = write_corpus(tmp_path, "train", [example], 1, META)["counts"]
    assert counts["questions"] == 1
    assert counts["responses"] == counts["responses_max"] == 30
    assert counts["prompt_tokens_max"] == counts["response_tokens_max"] == 60
    assert counts["response_tokens"] == 1800
    assert counts["grouping_gain"] == pytest.approx(30 * 120 / (60 + 1800), abs=1e-3)


def test_description_matches_the_files(tmp_path):
    saved = write_corpus(tmp_path, "train", [grouped(i) for i in range(5)], 2, META)
    assert description.read_description(tmp_path, "train") == saved
    assert saved["meta"] == META
    for file in saved["files"]:
        data = (tmp_path / file["name"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    readme = (tmp_path / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in FEATURES)


def test_empty_corpus_is_refused_with_the_reason(tmp_path):
    with pytest.raises(InputError, match="the corpus is empty, part 'train' has no example. Look at"):
        write_corpus(tmp_path, "train", [], 4, META)
    with shards.ShardWriter(tmp_path, "train", 0, 1) as writer:
        pass
    with pytest.raises(InputError, match="the corpus is empty, part 'train' has no example: 3 wrong. Look at"):
        description.finish_corpus(tmp_path, {"train": [writer.facts]}, META, reason="3 wrong")
    assert not (tmp_path / "train.json").exists()


def test_repeated_question_is_refused(tmp_path):
    for again, count in [([0, 1, 1], 1), ([1, 0, 1], 1)]:
        with pytest.raises(InputError, match="'world/train/1é' comes twice"):
            write_corpus(tmp_path, "train", map(grouped, again), count, META)
    with shards.ShardWriter(tmp_path, "part", 0, 1) as writer:
        writer.write(grouped(1))
        writer.write(grouped(0))
        with pytest.raises(InputError, match="'world/train/1é' comes twice"):
            writer.write(grouped(1))
    with pytest.raises(InputError, match="not built"):
        CorpusReader(tmp_path, "train")


def test_corpus_interrupted_by_a_full_disk_is_incomplete_and_can_be_written_again(tmp_path, monkeypatch):
    examples = [grouped(i) for i in range(6)]
    write_corpus(tmp_path, "train", examples, 2, META)
    expected = files(tmp_path)
    calls, fsync = [], os.fsync

    def full_after_limit(descriptor):
        """Fails after `limit` calls, which the loop below sets."""
        calls.append(descriptor)
        if len(calls) > limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    limit = 10**6
    monkeypatch.setattr(os, "fsync", full_after_limit)
    write_corpus(tmp_path, "train", examples, 2, META)
    for limit in range(len(calls)):
        calls.clear()
        with pytest.raises(InputError, match="the disk is full"):
            write_corpus(tmp_path, "train", examples, 2, META)
        if limit < 10:  # the last call comes after the description is renamed
            with pytest.raises(InputError, match="not built"):
                CorpusReader(tmp_path, "train")
    monkeypatch.undo()
    write_corpus(tmp_path, "train", examples, 2, META)
    assert files(tmp_path) == expected


def test_damage_is_reported_with_file_and_record(tmp_path):
    write_corpus(tmp_path, "train", [grouped(i) for i in range(6)], 2, META)
    shard = tmp_path / "train-00001-of-00002.tfrecord"
    data = bytearray(shard.read_bytes())
    data[-10] ^= 1
    shard.write_bytes(data)
    reader = CorpusReader(tmp_path, "train")
    assert reader[4] == grouped(4)
    with pytest.raises(InputError, match=rf"{shard.name} record 2: the checksum of its data is wrong"):
        reader[5]
    shard.write_bytes(data[:-1])
    with pytest.raises(InputError, match=rf"{shard.name}: expected {len(data)} bytes"):
        CorpusReader(tmp_path, "train")


def test_description_of_another_format_or_build_is_refused(tmp_path):
    write_corpus(tmp_path, "train", [grouped(i) for i in range(6)], 1, META)
    path = tmp_path / "train.json"
    saved = json.loads(path.read_text())
    saved["files"][0]["records"] = 5
    path.write_text(json.dumps(saved))
    with pytest.raises(InputError, match=r"tfrecord: expected 5 records \(see train\.json\), found 6"):
        CorpusReader(tmp_path, "train")
    path.write_text(json.dumps(saved | {"format": "other"}))
    with pytest.raises(InputError, match=r"train\.json: expected a corpus of format"):
        CorpusReader(tmp_path, "train")
    path.write_text("{")
    with pytest.raises(InputError, match=r"train\.json: not JSON"):
        CorpusReader(tmp_path, "train")


def test_other_tf_examples_are_refused():
    good = tf_example.decode(grouped(1).to_bytes(), "here")
    with pytest.raises(InputError, match="here: feature 'prompt' is missing"):
        GroupedExample.from_bytes(tf_example.encode({k: v for k, v in good.items() if k != "prompt"}), "here")
    with pytest.raises(InputError, match="here: response_lengths add up to"):
        GroupedExample.from_bytes(tf_example.encode(good | {"response_lengths": [1]}), "here")
    for change in [{"question_id": []}, {"question_id": [3]}, {"sample_index": [1]}, {"question_id": [b"\xff"]}]:
        with pytest.raises(InputError, match="here: not a grouped example"):
            GroupedExample.from_bytes(tf_example.encode(good | change), "here")


@pytest.mark.parametrize(("responses", "index"), [([], []), ([[1], []], [0, 1]), ([[1]], [0, 1])])
def test_grouped_example_needs_responses_with_sample_indices(responses, index):
    with pytest.raises(ValueError, match="question 'q'"):
        GroupedExample("q", "t", [1], responses, index)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tfds_reads_a_corpus(tmp_path):
    import tensorflow_datasets as tfds

    parts = {"predict": [grouped(i) for i in range(5)], "explain": [grouped(i, responses=1 + i) for i in range(5)]}
    facts = {}
    for part, examples in parts.items():
        facts[part] = []
        for shard, chunk in enumerate([examples[:2], [], examples[2:]]):  # a shard may be empty
            with shards.ShardWriter(tmp_path, part, shard, 3) as writer:
                for example in chunk:
                    writer.write(example)
            facts[part].append(writer.facts)
    description.finish_corpus(tmp_path, facts, META)
    builder = tfds.builder_from_directory(tmp_path)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"predict": 5, "explain": 5}
    assert set(builder.info.features) == set(FEATURES)
    for part, examples in parts.items():
        read = [
            GroupedExample.from_bytes(
                tf_example.encode({k: [v] if isinstance(v, bytes) else v for k, v in row.items()}), "tfds"
            )
            for row in tfds.as_numpy(builder.as_dataset(split=part))
        ]
        assert read == examples
        reader = CorpusReader(tmp_path, part)
        assert [reader[i] for i in range(len(reader))] == examples


def test_features_json_equals_that_of_tfds(tmp_path):
    import numpy as np
    import tensorflow_datasets as tfds

    kinds = {"bytes": tfds.features.Text(), "int64": tfds.features.Tensor(shape=(None,), dtype=np.int64)}
    theirs = tfds.features.FeaturesDict({name: kinds[text.partition(",")[0]] for name, text in FEATURES.items()})
    theirs.save_config(str(tmp_path))
    assert json.loads((tmp_path / "features.json").read_text()) == features()
