"""Shard files of one part of a corpus; each is written independently of all others.

    PART-00000-of-00004.tfrecord                 the examples, with a record index (tfrecord.py)
    PART-00000-of-00004.tfrecord.questions       the first record of each question; only if some have several records

Each shard holds consecutive questions, so the concatenation of all shards is the same for any number of them.
"""

import dataclasses
import hashlib
from typing import Any

import numpy as np
from etils import epath

from scotd_jax.corpus.counts import CorpusCounts
from scotd_jax.corpus.grouped_example import GroupedExample
from scotd_jax.corpus.tfrecord import TFRecordWriter, read_offsets, write_offsets
from scotd_jax.errors import InputError

QUESTION_INDEX_FORMAT = "scotd_jax.question_index.1"


def shard_name(part: str, shard: int, shards: int) -> str:
    """Returns the file name of one shard."""
    return f"{part}-{shard:05d}-of-{shards:05d}.tfrecord"


def shard_range(shard: int, shards: int, items: int) -> range:
    """Returns the indices of the items that belong to one shard."""
    return range(shard * items // shards, (shard + 1) * items // shards)


class ShardWriter:
    """Writes the examples of one shard; its files appear when the `with` block ends without an exception.

    The records of a question must be consecutive, and a sample may occur in only one of them.
    """

    def __init__(self, folder: epath.PathLike, part: str, shard: int, shards: int):
        self._part, self._path = part, epath.Path(folder) / shard_name(part, shard, shards)
        self._file = TFRecordWriter(self._path)
        self._counts = CorpusCounts()
        self._starts: list[int] = []  # first record of every question
        self._seen: set[str] = set()
        self._last, self._samples = "", set[int]()
        self._ids = hashlib.sha256()

    def __enter__(self) -> "ShardWriter":
        self._file.__enter__()
        return self

    def write(self, example: GroupedExample) -> None:
        """Appends one record.

        Raises:
          InputError: if the question or the sample occurs again, or the disk is full.
        """
        new_question = not self._starts or example.question_id != self._last
        if new_question:
            if example.question_id in self._seen:
                raise InputError(f"{self._path}: question {example.question_id!r} comes twice in part {self._part!r}")
            self._seen.add(example.question_id)
            self._last, self._samples = example.question_id, set()
            self._starts.append(self._file.records)
            self._ids.update(example.question_id.encode() + b"\n")
        if not self._samples.isdisjoint(example.sample_index):
            raise InputError(
                f"{self._path}: question {example.question_id!r} comes twice in part {self._part!r} with sample "
                f"{min(self._samples & set(example.sample_index))}"
            )
        self._samples.update(example.sample_index)
        self._counts.add(example, new_question)
        self._file.write(example.to_bytes())

    def __exit__(self, *exception: Any) -> None:
        self._file.__exit__(*exception)
        if exception[0] is None and len(self._starts) != self._file.records:
            head = {
                "format": QUESTION_INDEX_FORMAT,
                "questions": len(self._starts),
                "records": self._file.records,
            }
            write_offsets(questions_path(self._path), [*self._starts, self._file.records], head)

    @property
    def facts(self) -> dict[str, Any]:
        """The written file: `name`, `records`, `questions`, `bytes`, `sha256`, `ids` (sha256 of the question ids in
        order) and `counts`."""
        return {
            "name": self._path.name,
            "records": self._file.records,
            "questions": len(self._starts),
            "bytes": self._file.bytes,
            "sha256": self._file.sha256,
            "ids": self._ids.hexdigest(),
            "counts": dataclasses.asdict(self._counts),
        }


def questions_path(path: epath.PathLike) -> epath.Path:
    """Returns the path of the question index of the TFRecord file `path`."""
    path = epath.Path(path)
    return path.parent / f"{path.name}.questions"


def question_starts(path: epath.PathLike, questions: int, records: int) -> np.ndarray:
    """Reads the first record of every question of a TFRecord file.

    Args:
      path: the TFRecord file.
      questions: number of its questions.
      records: number of its records.

    Returns:
      int64[questions + 1]: the first record of each question and, last, the number of records.

    Raises:
      InputError: if the question index is missing, damaged, or belongs to another file.
    """
    if questions == records:
        return np.arange(questions + 1)
    head, starts = read_offsets(questions_path(path), QUESTION_INDEX_FORMAT)
    if (head.get("questions"), head.get("records"), len(starts)) != (questions, records, questions + 1):
        raise InputError(
            f"{questions_path(path)}: expected {questions} questions and {records} records: build the corpus again"
        )
    return starts.astype(np.int64)
