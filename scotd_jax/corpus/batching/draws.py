"""Keyed draws: select for each epoch one record of every entry (see reader.py) and some of its responses."""

import functools
from typing import NamedTuple

import numpy as np

from scotd_jax.corpus.batching.collate import DrawnExample
from scotd_jax.corpus.reader import CorpusReader
from scotd_jax.keyed_random import random_permutation

_CACHED_RECORDS = 1 << 17  # records whose lengths are cached: some tens of megabytes


class Draw(NamedTuple):
    """Responses drawn from one record.

    Attributes:
      record: position of the record.
      drawn: indices of the distinct responses.
      count: number of responses in total; the distinct ones are repeated in turn.
    """

    record: int
    drawn: np.ndarray
    count: int

    @property
    def counts(self) -> list[int]:
        """Number of repetitions of each distinct response."""
        whole, rest = divmod(self.count, len(self.drawn))
        return [whole + (i < rest) for i in range(len(self.drawn))]


class PartDraws:
    """All draws from one part of a corpus. Caches the lengths of records, but reads their texts again for each draw."""

    def __init__(self, reader: CorpusReader, group_size: int, start_token: int | None):
        """See `CorpusBatches` for the arguments."""
        counts = reader.description["counts"]
        self._reader, self.start_token = reader, start_token
        self.group_size = min(group_size, counts["responses_max"])
        # A decoder-only model starts from the last token of the prompt, which is then not part of the prefix.
        self._start_tokens_in_prompt = 0 if start_token is not None else 1
        # Tokens of the longest prefix and of the longest response.
        self.longest = counts["prompt_tokens_max"] - self._start_tokens_in_prompt, counts["response_tokens_max"]
        self._lengths = functools.lru_cache(_CACHED_RECORDS)(self._read_lengths)

    def _read_lengths(self, record: int) -> tuple[str, int, np.ndarray]:
        """Returns the question id, the number of prompt tokens, and the number of tokens of each response."""
        example = self._reader[record]
        lengths = np.array([len(response) for response in example.responses], np.int32)
        return example.question_id, len(example.prompt), lengths

    def draw(self, entry: int, seed: int, epoch: int) -> Draw:
        """Draws one record of an entry and `group_size` of its responses, keyed by seed, question id and epoch."""
        records = self._reader.records(entry)
        record, question_id = records[0], self._lengths(records[0])[0]
        if len(records) > 1:
            record = records[int(random_permutation(len(records), "draw", seed, question_id, epoch)[0])]
        question_id, _, lengths = self._lengths(record)
        order = random_permutation(len(lengths), "draw", seed, question_id, epoch)
        return Draw(record, order[: self.group_size], self.group_size)

    def lengths(self, draw: Draw) -> tuple[int, np.ndarray]:
        """Returns the number of prefix tokens and int32[G]: the tokens of each distinct response, padded with zeros."""
        _, prompt, lengths = self._lengths(draw.record)
        drawn = np.zeros(self.group_size, np.int32)
        drawn[: len(draw.drawn)] = lengths[draw.drawn]
        return prompt - self._start_tokens_in_prompt, drawn

    def example(self, draw: Draw) -> DrawnExample:
        """Reads the token ids of a draw."""
        example = self._reader[draw.record]
        return DrawnExample(example.prompt, [example.responses[int(i)] for i in draw.drawn], draw.counts)
