"""Random access to the records of one part of a corpus."""

import numpy as np
from etils import epath

from scotd_jax.corpus.description import read_description
from scotd_jax.corpus.grouped_example import GroupedExample
from scotd_jax.corpus.shards import question_starts
from scotd_jax.corpus.tfrecord import TFRecordShard
from scotd_jax.errors import InputError


class CorpusReader:
    """The records of one part, by position over all shards. Safe to share between threads.

    Training draws every *entry* equally often: a question with all its records or, in a corpus that is balanced over
    responses, a single record.
    """

    def __init__(self, folder: epath.PathLike, part: str):
        """Opens all shards of `part` in `folder`.

        Raises:
          InputError: if a shard is missing, truncated, or from another build.
        """
        self.description = read_description(folder, part)
        self._shards, starts, num_records = [], [], 0
        for file in self.description["files"]:
            shard = TFRecordShard(epath.Path(folder) / file["name"])
            if len(shard) != file["records"]:
                raise InputError(
                    f"{shard.path}: expected {file['records']} records (see {part}.json), found {len(shard)}: "
                    "build the corpus again"
                )
            self._shards.append(shard)
            starts.append(num_records + question_starts(shard.path, file["questions"], file["records"])[:-1])
            num_records += len(shard)
        self._ends = np.cumsum([len(shard) for shard in self._shards])
        self._starts = np.arange(num_records + 1)  # first record of every entry, and the number of records
        if self.description["balance"] == "questions":
            self._starts = np.append(np.concatenate(starts), num_records)

    def __len__(self) -> int:
        """Number of records."""
        return int(self._ends[-1])

    @property
    def entries(self) -> int:
        """Number of entries."""
        return len(self._starts) - 1

    @property
    def fingerprint(self) -> tuple[int, list[str]]:
        """Equal for two parts exactly if they hold the same entries in the same order."""
        return self.entries, [file["ids"] for file in self.description["files"]]

    def records(self, entry: int) -> range:
        """Positions of the records of an entry."""
        return range(int(self._starts[entry]), int(self._starts[entry + 1]))

    def __getitem__(self, position: int) -> GroupedExample:
        """Reads one record.

        Raises:
          InputError: if its bytes are damaged; the message names file and record.
        """
        if not 0 <= position < len(self):
            raise IndexError(f"record {position} of {len(self)}")
        number = int(np.searchsorted(self._ends, position, side="right"))
        shard = self._shards[number]
        record = position - (int(self._ends[number]) - len(shard))
        return GroupedExample.from_bytes(shard[record], f"{shard.path} record {record}")
