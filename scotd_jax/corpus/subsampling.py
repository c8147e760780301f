"""Sub-sampling of a corpus to a number of responses, at random from those that pass all filters.

The number of responses that pass is known only after all shards are built, so the shards are rewritten with the
selected responses. The selection is keyed by question and sample: the corpus of a smaller number is part of that of a
larger one.
"""

import collections
import itertools
from collections.abc import Sequence
from typing import Any

from etils import epath

from scotd_jax.corpus.grouped_example import GroupedExample
from scotd_jax.corpus.shard_building import CorpusPlan
from scotd_jax.corpus.shards import ShardWriter, shard_name
from scotd_jax.corpus.tfrecord import TFRecordShard
from scotd_jax.keyed_random import random_sort_key
from scotd_jax.rationales.ledger import Ledger

Samples = dict[str, set[int]]  # question id -> indices of its selected samples


def subsample(plan: CorpusPlan, notes: Sequence[dict[str, Any]], ledger: Ledger) -> list[dict[str, Any]]:
    """Reduces the shards to `Corpus.max_responses` responses, and moves the others in the ledger to "not_selected".

    A shard's note is removed before the shard is rewritten, so that an interrupted build builds it again.

    Args:
      plan: plan of the corpus.
      notes: notes of all shards.
      ledger: the ledger of all shards.

    Returns:
      The notes with the facts of the rewritten shards.
    """
    rows = [row for note in notes for row in note["kept"]]
    kept = [(row["question_id"], index, row["model"]) for row in rows for index in row["samples"]]
    by_key = sorted(kept, key=lambda sample: random_sort_key("max_responses", *sample[:2]))
    dropped = by_key[plan.corpus.max_responses :]
    ledger.record_stage("max_responses", len(kept), len(dropped))
    for question_id, _, model in dropped:
        ledger.move(question_id, "kept", "not_selected", model)
    if not dropped:
        return list(notes)
    selected: Samples = collections.defaultdict(set)
    for question_id, index, _ in by_key[: plan.corpus.max_responses]:
        selected[question_id].add(index)
    reduced = []
    for shard, note in enumerate(notes):
        plan.note(shard).unlink()
        reduced.append(note | {"parts": {part: _rewrite(plan, part, shard, selected) for part in plan.recipe.parts}})
    return reduced


def _rewrite(plan: CorpusPlan, part: str, shard: int, selected: Samples) -> dict[str, Any]:
    """Writes one shard of a part again, with the selected samples. Returns its facts."""
    records = TFRecordShard(epath.Path(plan.folder) / shard_name(part, shard, plan.shards))
    examples = (GroupedExample.from_bytes(records[i], f"{records.path} record {i}") for i in range(len(records)))
    with ShardWriter(plan.folder, part, shard, plan.shards) as writer:
        for question_id, of_question in itertools.groupby(examples, key=lambda example: example.question_id):
            if samples := selected.get(question_id):
                for example in plan.example_encoder.select({part: list(of_question)}, samples)[part]:
                    writer.write(example)
    return writer.facts
