"""Random access to one part of a corpus: any record, and which records are a question's."""

import numpy as np
from etils import epath

from scotd_jax.corpus.description import read_description
from scotd_jax.corpus.encode import GroupedExample
from scotd_jax.corpus.shards import question_begins
from scotd_jax.corpus.tfrecord import TFRecordShard
from scotd_jax.errors import InputError


class CorpusReader:
    """The records of one part in their order, by position. Safe to share between threads.

    What comes equally often in training is an *entry*: a question with all its records or, where the corpus is
    balanced over responses, one record.
    """

    def __init__(self, folder: epath.PathLike, part: str):
        """Opens all shards. Raises InputError when one is missing, truncated or not the one that was built."""
        self.description = read_description(folder, part)
        self._shards, begins, records = [], [], 0
        for file in self.description["files"]:
            shard = TFRecordShard(epath.Path(folder) / file["name"])
            if len(shard) != file["records"]:
                raise InputError(
                    f"{shard.path}: expected {file['records']} records by {part}.json, found {len(shard)}: "
                    "build the corpus again"
                )
            self._shards.append(shard)
            begins.append(records + question_begins(shard.path, file["questions"], file["records"])[:-1])
            records += len(shard)
        self._ends = np.cumsum([len(shard) for shard in self._shards])
        several = self.description["balance"] == "questions"
        self._begins = np.append(np.concatenate(begins), records) if several else np.arange(records + 1)

    def __len__(self) -> int:
        """Number of records."""
        return int(self._ends[-1])

    @property
    def entries(self) -> int:
        return len(self._begins) - 1

    @property
    def ids(self) -> tuple[int, list[str]]:
        """The same for two parts that hold the same entries in the same order."""
        return self.entries, [file["ids"] for file in self.description["files"]]

    def records(self, entry: int) -> range:
        """Positions of the records of an entry."""
        return range(int(self._begins[entry]), int(self._begins[entry + 1]))

    def __getitem__(self, position: int) -> GroupedExample:
        """Record `position`. Raises InputError, naming file and record, when its bytes are damaged."""
        if not 0 <= position < len(self):
            raise IndexError(f"record {position} of {len(self)}")
        number = int(np.searchsorted(self._ends, position, side="right"))
        shard = self._shards[number]
        record = position - (int(self._ends[number]) - len(shard))
        return GroupedExample.from_bytes(shard[record], f"{shard.path} record {record}")
