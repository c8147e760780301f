"""What one visit shows of an entry of a part: a record of it, and some of its responses, drawn by name."""

import functools
from typing import NamedTuple

import numpy as np

from scotd_jax.corpus.batching.collate import DrawnExample
from scotd_jax.corpus.reader import CorpusReader
from scotd_jax.keyed_random import random_permutation

_KEPT = 1 << 17  # records whose lengths are remembered: some tens of megabytes


class Draw(NamedTuple):
    """Record `record` and the responses `drawn` of it, all different; a visit shows `count` of them, repeating."""

    record: int
    drawn: np.ndarray
    count: int

    @property
    def counts(self) -> list[int]:
        """How often each is shown."""
        whole, rest = divmod(self.count, len(self.drawn))
        return [whole + (i < rest) for i in range(len(self.drawn))]


class PartDraws:
    """All visits to one part. Sizes are read once and remembered, texts are read again."""

    def __init__(self, reader: CorpusReader, group_size: int, start_token: int | None):
        counts = reader.description["counts"]
        self._reader, self.start_token = reader, start_token
        self.group_size = min(group_size, counts["responses_max"])
        self._own_start = 0 if start_token is not None else 1  # decoder-only: the prompt's last token is no prefix
        self.longest = counts["prompt_tokens_max"] - self._own_start, counts["response_tokens_max"]
        self._known = functools.lru_cache(_KEPT)(self._measure)

    def _measure(self, record: int) -> tuple[str, int, np.ndarray]:
        example = self._reader[record]
        lengths = np.array([len(response) for response in example.responses], np.int32)
        return example.question_id, len(example.prompt), lengths

    def visit(self, entry: int, seed: int, epoch: int) -> Draw:
        """Of the entry's records one is drawn, and of its responses G, by a key made of seed, question and epoch."""
        records = self._reader.records(entry)
        record, name = records[0], self._known(records[0])[0]
        if len(records) > 1:
            record = records[int(random_permutation(len(records), "draw", seed, name, epoch)[0])]
        name, _, lengths = self._known(record)
        return Draw(
            record, random_permutation(len(lengths), "draw", seed, name, epoch)[: self.group_size], self.group_size
        )

    def size(self, visit: Draw) -> tuple[int, np.ndarray]:
        """Tokens of the prefix, and int32[G] of the responses, 0 where there are fewer than G."""
        _, prompt, lengths = self._known(visit.record)
        drawn = np.zeros(self.group_size, np.int32)
        drawn[: len(visit.drawn)] = lengths[visit.drawn]
        return prompt - self._own_start, drawn

    def row(self, visit: Draw) -> DrawnExample:
        example = self._reader[visit.record]
        return DrawnExample(example.prompt, [example.responses[int(i)] for i in visit.drawn], visit.counts)
