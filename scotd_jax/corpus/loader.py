"""Batches of a corpus: batch t is arithmetic on (seed, t), not the end of a replay.

Rows are numbered through all epochs. Row i of the stream belongs to epoch i // Q (Q questions) and is the question at
place i % Q of that epoch's permutation; batch t holds rows t * B to t * B + B - 1. Of the N responses of a question,
G are drawn by a key made of the seed, the question's name and the epoch. So a cut run resumes at any batch without
reading what came before, and any number of processes cuts the same batches into consecutive parts.

Permutations and draws sort raw bits of a counter-based generator, which are the same in every version of NumPy.
"""

import functools
import hashlib
import sys
from typing import Any

import numpy as np
from etils import epath

from scotd_jax.corpus.build import read_description
from scotd_jax.corpus.encode import GroupedExample
from scotd_jax.corpus.tfrecord import TFRecordShard
from scotd_jax.errors import InputError
from scotd_jax.layout import pad_rows, round_up, split_prompt

Batch = dict[str, np.ndarray]


def random_order(size: int, *names: Any) -> np.ndarray:
    """int64[size], a permutation that is a pure function of `names` (their text)."""
    digest = hashlib.blake2b("\x1f".join(str(name) for name in names).encode(), digest_size=16).digest()
    bits = np.random.Philox(key=np.frombuffer(digest, "<u8")).random_raw(size)
    return np.argsort(bits, kind="stable")


class CorpusReader:
    """The examples of one split in their order, by position. Safe to share between threads."""

    def __init__(self, folder: epath.PathLike, split: str):
        """Opens all shards. Raises InputError when one is missing, truncated or not the one that was built."""
        self.description = read_description(folder, split)
        self._shards = []
        for file in self.description["files"]:
            shard = TFRecordShard(epath.Path(folder) / file["name"])
            if len(shard) != file["records"]:
                raise InputError(
                    f"{shard.path}: expected {file['records']} records by {split}.json, found {len(shard)}: "
                    "build the corpus again"
                )
            self._shards.append(shard)

    def __len__(self) -> int:
        return self.description["counts"]["questions"]

    def __getitem__(self, position: int) -> GroupedExample:
        """Example `position`. Raises InputError, naming file and record, when its bytes are damaged."""
        record, shard = divmod(position, len(self._shards))
        data = self._shards[shard][record]
        return GroupedExample.from_bytes(data, f"{self._shards[shard].path} record {record}")


class Batches:
    """Random access to the batches of one process, without end: `batches[t]` is its part of global batch t."""

    def __init__(
        self,
        reader: CorpusReader,
        *,
        batch_size: int,
        group_size: int,
        start_token: int | None,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """`batch_size` counts the questions of all processes. Raises InputError when they cannot share it equally."""
        if batch_size % process_count:
            raise InputError(f"batch_size {batch_size} is not a multiple of the {process_count} processes")
        self._reader, self._seed = reader, seed
        self._batch_size, self._group_size, self._start_token = batch_size, group_size, start_token
        self._rows = batch_size // process_count
        self._first = process_index * self._rows
        counts = reader.description["counts"]
        own_start = 0 if start_token is not None else 1  # decoder-only: the prompt's last token is no longer prefix
        self.prompt_width = round_up(counts["prompt_tokens_max"] - own_start, 8)
        self.response_width = round_up(counts["response_tokens_max"], 8)
        self._permutation = functools.lru_cache(maxsize=2)(
            lambda epoch: random_order(len(reader), "epoch", seed, epoch)
        )

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> Batch:
        begin = step * self._batch_size + self._first
        return self._collate([self.row(i) for i in range(begin, begin + self._rows)])

    def row(self, index: int) -> tuple[list[int], list[list[int]]]:
        """Prompt and G drawn responses of row `index` of the stream. A question with fewer than G repeats them."""
        epoch, place = divmod(index, len(self._reader))
        example = self._reader[int(self._permutation(epoch)[place])]
        order = random_order(len(example.responses), "draw", self._seed, example.question_id, epoch)
        drawn = [int(order[g % len(order)]) for g in range(self._group_size)]
        return example.prompt, [example.responses[i] for i in drawn]

    def _collate(self, rows: list[tuple[list[int], list[list[int]]]]) -> Batch:
        prefixes, inputs, targets = [], [], []
        for prompt, responses in rows:
            prefix, start = split_prompt(prompt, self._start_token)
            prefixes.append(prefix)
            inputs += [[start, *response[:-1]] for response in responses]
            targets += responses
        shape = (len(rows), self._group_size, self.response_width)
        prompt, prompt_mask = pad_rows(prefixes, self.prompt_width)
        target, real = pad_rows(targets, self.response_width)
        return {
            "prompt": prompt,
            "prompt_mask": prompt_mask,
            "inputs": pad_rows(inputs, self.response_width)[0].reshape(shape),
            "targets": target.reshape(shape),
            "weights": real.astype(np.float32).reshape(shape),
        }


def make_dataset(folder: epath.PathLike, split: str, **options: Any) -> Any:
    """The batches as a `grain.MapDataset`; `options` are those of `Batches`."""
    import grain

    return grain.MapDataset.source(Batches(CorpusReader(folder, split), **options))


def make_loader(
    folder: epath.PathLike,
    split: str,
    *,
    batch_size: int,
    group_size: int,
    start_token: int | None,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Any:
    """An endless `grain.DatasetIterator` over the batches of one process, read ahead by two threads.

    A batch is a dict of arrays, B being the process' part of `batch_size` and G `group_size`:

        prompt int32[B, P], prompt_mask bool[B, P]      the prefix (`layout.split_prompt`), right-padded
        inputs, targets int32[B, G, R]                  start token and response, the response
        weights float32[B, G, R]                        1 on the tokens of the response, 0 on padding

    P and R are the largest of the corpus, rounded up to 8: one compilation. `start_token` is the model's
    (None: decoder-only). `get_state` and `set_state` are exact and their state, `{"next_index": t}`, fits any number
    of processes. Raises InputError on a corpus that is missing or damaged.
    """
    import grain

    dataset = make_dataset(
        folder,
        split,
        batch_size=batch_size,
        group_size=group_size,
        start_token=start_token,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
    )
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))
