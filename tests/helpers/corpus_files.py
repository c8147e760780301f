"""Writes corpora of one part from grouped examples, without the build job."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grain
import numpy as np

from scotd_jax.atomic import remove_partial_files
from scotd_jax.corpus.batching.loader import open_batches, prefetch_batches
from scotd_jax.corpus.description import finish_corpus
from scotd_jax.corpus.grouped_example import GroupedExample
from scotd_jax.corpus.shards import ShardWriter, shard_range


def write_corpus(
    folder: Path,
    part: str,
    examples: Iterable[GroupedExample],
    shards: int,
    meta: Mapping[str, Any] | None = None,
    balance: str = "questions",
) -> dict[str, Any]:
    """Writes `examples` as one part with at most one shard per question; returns its description.

    The records of a question are consecutive.
    """
    groups = [list(records) for _, records in itertools.groupby(examples, key=lambda example: example.question_id)]
    (folder / f"{part}.json").unlink(missing_ok=True)  # an interrupted write must leave no complete part
    remove_partial_files(folder, prefix=f"{part}-")
    count, facts = max(1, min(shards, len(groups))), []
    for shard in range(count):
        with ShardWriter(folder, part, shard, count) as writer:
            for i in shard_range(shard, count, len(groups)):
                for example in groups[i]:
                    writer.write(example)
        facts.append(writer.facts)
    return finish_corpus(folder, {part: facts}, meta or {}, balance)[part]


def batch_dataset(folder: Path, parts: tuple[str, ...] = ("train",), **options: Any) -> grain.MapDataset:
    """Returns the batches of a corpus by step; `options` are those of `CorpusBatches`."""
    return grain.MapDataset.source(open_batches(folder, parts, **options))


def batch_iterator(folder: Path, parts: tuple[str, ...] = ("train",), **options: Any) -> Iterator[Any]:
    """Returns the batches of a corpus as the train job iterates over them."""
    return prefetch_batches(open_batches(folder, parts, **options))


# For tests of packing: a corpus of texts of uneven length, and options of its batches.
UNEVEN_QUESTIONS = 60
PACKED_OPTIONS = {"batch_size": 8, "group_size": 5, "start_token": None, "seed": 3}
PACKED_OPTIONS |= {"balance_window": 4, "max_shapes": 5}


def uneven_example(i: int) -> GroupedExample:
    """Returns question i with 1 to 7 responses; its prompt ends with 1000 + i, response k begins with 10 * i + k."""
    rng = np.random.default_rng(i)
    responses = [[10 * i + k, *rng.integers(2000, 3000, rng.integers(0, 40)).tolist()] for k in range(1 + i % 7)]
    return GroupedExample(f"q{i}", "t", [*range(rng.integers(5, 30)), 1000 + i], responses, list(range(1 + i % 7)))
