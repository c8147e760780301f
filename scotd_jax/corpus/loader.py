"""Batches of a corpus: batch t is arithmetic on (seed, t), not the end of a replay.

Rows are numbered through all epochs. Row i of the stream belongs to epoch i // E (E entries, see reader.py) and is the
entry at place i % E of that epoch's permutation; batch t holds rows t * B to t * B + B - 1. Of an entry's records one
is drawn, and of its N responses G, by a key made of the seed, the question's name and the epoch. So a cut run resumes
at any batch without reading what came before, and any number of processes cuts the same batches into consecutive
parts. All parts of a corpus visit the same question in the same row, and as the key is one, parts whose records hold
a response each show the one that a part with all responses beside one prompt draws first.
"""

import functools
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from scotd_jax.corpus.order import random_order
from scotd_jax.corpus.reader import CorpusReader
from scotd_jax.errors import InputError
from scotd_jax.layout import pad_rows, round_up, split_prompt

Batch = dict[str, np.ndarray]
Row = tuple[list[int], list[list[int]]]  # a prompt and G responses


class Batches:
    """Random access to the batches of one process, without end: `batches[t]` is its part of global batch t.

    An item has a batch for every part of the corpus: a dict of arrays, B being the process' part of `batch_size` and
    G the lesser of `group_size` and the largest number of responses that a record of the part has:

        prompt int32[B, P], prompt_mask bool[B, P]      the prefix (`layout.split_prompt`), right-padded
        inputs, targets int32[B, G, R]                  start token and response, the response
        weights float32[B, G, R]                        1 on the tokens of the response, 0 on padding

    P and R are the largest of the part, rounded up to 8: one compilation.
    """

    def __init__(
        self,
        readers: Mapping[str, CorpusReader],
        *,
        batch_size: int,
        group_size: int,
        start_token: int | None,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """`batch_size` counts the entries of all processes; `start_token` is the model's (None: decoder-only).

        Raises InputError when the processes cannot share a batch equally, and when the parts do not hold the same
        questions.
        """
        if batch_size % process_count:
            raise InputError(f"batch_size {batch_size} is not a multiple of the {process_count} processes")
        self._entries, ids = next(iter(readers.values())).ids
        for name, reader in readers.items():
            if reader.ids != (self._entries, ids):
                raise InputError(
                    f"part {name!r} of the corpus holds other questions than {next(iter(readers))!r}: build it again"
                )
        self._seed, self._batch_size, self._start_token = seed, batch_size, start_token
        self._rows = batch_size // process_count
        self._first = process_index * self._rows
        self._parts = {name: _Part(reader, group_size, start_token) for name, reader in readers.items()}
        self._permutation = functools.lru_cache(maxsize=2)(
            lambda epoch: random_order(self._entries, "epoch", seed, epoch)
        )

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> dict[str, Batch]:
        begin = step * self._batch_size + self._first
        rows = [self.row(i) for i in range(begin, begin + self._rows)]
        return {name: part.collate([row[name] for row in rows]) for name, part in self._parts.items()}

    def row(self, index: int) -> dict[str, Row]:
        """Per part the prompt and G drawn responses of row `index` of the stream. Fewer than G are repeated."""
        epoch, place = divmod(index, self._entries)
        entry = int(self._permutation(epoch)[place])
        return {name: part.draw(entry, self._seed, epoch) for name, part in self._parts.items()}


class _Part:
    """One part: what it shows of an entry, and in which shape."""

    def __init__(self, reader: CorpusReader, group_size: int, start_token: int | None):
        counts = reader.description["counts"]
        self._reader, self._start_token = reader, start_token
        self._group_size = min(group_size, counts["responses_max"])
        own_start = 0 if start_token is not None else 1  # decoder-only: the prompt's last token is no longer prefix
        self._prompt_width = round_up(counts["prompt_tokens_max"] - own_start, 8)
        self._response_width = round_up(counts["response_tokens_max"], 8)

    def draw(self, entry: int, seed: int, epoch: int) -> Row:
        records = self._reader.records(entry)
        example = self._reader[records[0]]
        if len(records) > 1:
            drawn = int(random_order(len(records), "draw", seed, example.question_id, epoch)[0])
            example = self._reader[records[drawn]] if drawn else example
        order = random_order(len(example.responses), "draw", seed, example.question_id, epoch)
        responses = [example.responses[int(order[g % len(order)])] for g in range(self._group_size)]
        return example.prompt, responses

    def collate(self, rows: list[Row]) -> Batch:
        prefixes, inputs, targets = [], [], []
        for prompt, responses in rows:
            prefix, start = split_prompt(prompt, self._start_token)
            prefixes.append(prefix)
            inputs += [[start, *response[:-1]] for response in responses]
            targets += responses
        shape = (len(rows), self._group_size, self._response_width)
        prompt, prompt_mask = pad_rows(prefixes, self._prompt_width)
        target, real = pad_rows(targets, self._response_width)
        return {
            "prompt": prompt,
            "prompt_mask": prompt_mask,
            "inputs": pad_rows(inputs, self._response_width)[0].reshape(shape),
            "targets": target.reshape(shape),
            "weights": real.astype(np.float32).reshape(shape),
        }


def make_dataset(folder: epath.PathLike, parts: tuple[str, ...] = ("train",), **options: Any) -> Any:
    """The batches as a `grain.MapDataset`; `options` are those of `Batches`."""
    import grain

    readers = {part: CorpusReader(folder, part) for part in parts}
    return grain.MapDataset.source(Batches(readers, **options))


def make_loader(folder: epath.PathLike, parts: tuple[str, ...] = ("train",), **options: Any) -> Any:
    """An endless `grain.DatasetIterator` over the batches of one process, read ahead by two threads.

    Its items are those of `Batches`, {part: batch}, and so are the `options`: batch_size, group_size, start_token,
    seed and, on several processes, process_index and process_count. `get_state` and `set_state` are exact and their
    state, `{"next_index": t}`, fits any number of processes. Raises InputError as `Batches` does, and on a corpus that
    is missing or damaged.
    """
    import grain

    dataset = make_dataset(folder, parts, **options)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))
