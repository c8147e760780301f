"""TFRecord framing, record index and tf.train.Example encoding, compared with TensorFlow."""

import errno
import json
import os
import pickle

import pytest
import tensorflow as tf
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from scotd_jax.atomic import is_local
from scotd_jax.corpus import tf_example, tfrecord
from scotd_jax.corpus.tfrecord import TFRecordShard, TFRecordWriter, index_path
from scotd_jax.errors import InputError

RECORDS = [b"", b"one", b"\n\x00" * 50, bytes(range(256)) * 9]  # they start at bytes 0, 16, 35 and 151 of the file


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "train-00000-of-00001.tfrecord"
    with TFRecordWriter(path) as writer:
        for record in RECORDS:
            writer.write(record)
    return path


def test_file_is_read_by_tensorflow_and_equals_its_bytes(shard, tmp_path):
    assert [r.numpy() for r in tf.data.TFRecordDataset(str(shard))] == RECORDS
    theirs = tmp_path / "theirs.tfrecord"
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for record in RECORDS:
            writer.write(record)
    assert theirs.read_bytes() == shard.read_bytes()


def test_records_are_read_in_any_order_and_after_pickling(shard):
    opened = pickle.loads(pickle.dumps(TFRecordShard(shard)))
    assert len(opened) == len(RECORDS)
    for i in [3, 0, 2, 1, 3]:
        assert opened[i] == RECORDS[i]
    with pytest.raises(IndexError):
        opened[len(RECORDS)]


def test_records_are_read_without_a_local_file(shard, monkeypatch):
    """As in a bucket, where there is no file descriptor."""
    monkeypatch.setattr(tfrecord, "is_local", lambda path: False)
    monkeypatch.setattr(os, "pread", None)
    opened = TFRecordShard(shard)
    assert [opened[i] for i in (3, 0, 2, 1)] == [RECORDS[i] for i in (3, 0, 2, 1)]


def test_bucket_paths_are_not_local():
    assert is_local("/tmp/a")
    assert not is_local(epath.Path("gs://bucket/a"))


def test_index_has_the_documented_format(shard):
    line, _, body = index_path(shard).read_bytes().partition(b"\n")
    head = json.loads(line)
    assert head["records"] == len(RECORDS)
    assert head["bytes"] == shard.stat().st_size
    offsets = memoryview(body).cast("Q").tolist()
    assert offsets == [0, 16, 35, 151, shard.stat().st_size]


def test_empty_file_has_no_records(tmp_path):
    with TFRecordWriter(tmp_path / "a.tfrecord") as writer:
        pass
    assert (writer.records, writer.bytes) == (0, 0)
    assert len(TFRecordShard(tmp_path / "a.tfrecord")) == 0


def test_truncated_file_is_refused_with_file_and_record(shard):
    whole = shard.read_bytes()
    starts = [0, 16, 35, 151]
    for size in [0, 1, 11, 12, 15, 16, 17, 34, 40, 151, 160, len(whole) - 1]:
        shard.write_bytes(whole[:size])
        record = sum(start <= size for start in starts) - 1
        with pytest.raises(InputError, match=rf"{shard.name}: expected {len(whole)} bytes.*cut in record {record}"):
            TFRecordShard(shard)
    shard.unlink()
    with pytest.raises(InputError, match="no such file"):
        TFRecordShard(shard)


def test_flipped_byte_is_refused_with_file_and_record(shard):
    whole = shard.read_bytes()
    starts = [0, 16, 35, 151]
    for position in [0, 7, 8, 11, 12, 15, 16, 20, 28, 30, 31, 34, 35, 90, 150, 151, 200, len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        shard.write_bytes(damaged)
        record = sum(start <= position for start in starts) - 1
        opened = TFRecordShard(shard)
        for i, expected in enumerate(RECORDS):
            if i == record:
                with pytest.raises(InputError, match=rf"{shard.name} record {record}: "):
                    opened[i]
            else:
                assert opened[i] == expected


def test_damaged_index_is_refused(shard):
    index = index_path(shard)
    good = index.read_bytes()
    for bad, message in [
        (good[:-8], "damaged"),
        (good[:-1] + b"\x01", "damaged"),
        (b"{}\n" + good.partition(b"\n")[2], "not an index"),
        (b"", "not an index"),
        (good.replace(b'"records": 4', b'"records": 3'), "damaged"),
    ]:
        index.write_bytes(bad)
        with pytest.raises(InputError, match=f"{index.name}: {message}"):
            TFRecordShard(shard)
    index.unlink()
    with pytest.raises(InputError, match=r"index: no such file"):
        TFRecordShard(shard)


def test_index_of_another_file_of_equal_size_is_refused(shard, tmp_path):
    with TFRecordWriter(tmp_path / "other.tfrecord") as writer:
        for record in [b"x", *[r[1:] if r == b"one" else r for r in RECORDS[1:]]]:  # one byte moved to the first record
            writer.write(record)
    assert writer.bytes == shard.stat().st_size
    index_path(shard).write_bytes(index_path(tmp_path / "other.tfrecord").read_bytes())
    with pytest.raises(InputError, match="record 0: expected 0 bytes of data, found 1"):
        TFRecordShard(shard)[0]


def test_full_disk_leaves_the_old_file(shard, monkeypatch):
    before, index = shard.read_bytes(), index_path(shard).read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(InputError, match=rf"{shard.name}: the disk is full.*free some space"),
        TFRecordWriter(shard) as writer,
    ):
        writer.write(b"new")
    assert shard.read_bytes() == before
    assert index_path(shard).read_bytes() == index
    assert sorted(p.name for p in shard.parent.iterdir()) == [shard.name, f"{shard.name}.index"]


def test_exception_while_writing_leaves_no_file(tmp_path):
    with pytest.raises(TypeError), TFRecordWriter(tmp_path / "a.tfrecord") as writer:
        writer.write(None)
    assert list(tmp_path.iterdir()) == []


feature_values = st.one_of(
    st.lists(st.binary(max_size=5), max_size=4),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    st.lists(st.floats(width=32, allow_nan=False), max_size=4),
)


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=4), feature_values, max_size=4))
@settings(max_examples=60)
def test_examples_round_trip_and_agree_with_tensorflow(features):
    data = tf_example.encode(features)
    assert tf_example.decode(data, "here") == features
    assert tf_example.encode(dict(reversed(features.items()))) == data
    theirs = tf.train.Example.FromString(data)
    assert set(theirs.features.feature) == set(features)
    for name, values in features.items():
        feature = theirs.features.feature[name]
        assert list(getattr(feature, feature.WhichOneof("kind")).value) == values
    assert tf_example.decode(theirs.SerializeToString(), "here") == features


def test_damaged_examples_and_mixed_values_are_refused():
    data = tf_example.encode({"a": [1, 2, 3]})
    with pytest.raises(InputError, match=r"here: not a tf\.train\.Example"):
        tf_example.decode(data[:-1], "here")
    with pytest.raises(TypeError, match="feature 'a'"):
        tf_example.encode({"a": [1, b"2"]})
