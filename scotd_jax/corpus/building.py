"""Builds a corpus from questions and responses: first its shards, then one corpus of all shards."""

import collections
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from scotd_jax.atomic import write_text
from scotd_jax.config import Corpus, Recipe
from scotd_jax.corpus import shard_building
from scotd_jax.corpus.description import finish_corpus
from scotd_jax.corpus.question_examples import PromptedQuestion
from scotd_jax.corpus.shard_building import CorpusPlan
from scotd_jax.corpus.subsampling import subsample
from scotd_jax.errors import UnusableCorpusError
from scotd_jax.rationales.ledger import Ledger
from scotd_jax.rationales.stored_responses import StoredResponses
from scotd_jax.tokenization import PromptEncoder


class BuiltCorpus(NamedTuple):
    """A finished corpus.

    Attributes:
      counts: for each part the `counts` of its description.
      left_out: number of questions left out, by reason; always empty for a recipe that uses responses.
      digests: sha256 of every TFRecord file.
      summary: how many responses are kept and in each other bin; empty for a recipe that uses none.
    """

    counts: dict[str, dict[str, Any]]
    left_out: dict[str, int]
    digests: list[str]
    summary: str


def plan_corpus(
    folder: epath.PathLike,
    corpus: Corpus,
    recipe: Recipe,
    questions: Sequence[PromptedQuestion],
    response_files: Iterable[Sequence[epath.Path]],
    encoder: PromptEncoder,
    contaminated: Iterable[str] = (),
) -> CorpusPlan:
    """Returns the plan of a corpus: all inputs, with the rows of all response files located but not read.

    Args:
      folder: folder of the corpus.
      corpus: settings of the corpus.
      recipe: recipe of the corpus.
      questions: the questions, in order.
      response_files: for each set of responses its files.
      encoder: encodes texts for the models that read the corpus.
      contaminated: ids of the questions to leave out.

    Raises:
      InputError: on a damaged file of responses.
    """
    index = {prompted.question.id: i for i, prompted in enumerate(questions)}
    return CorpusPlan(
        folder=str(folder),
        corpus=corpus,
        recipe=recipe,
        questions=questions,
        responses=[StoredResponses(files, index) for files in response_files],
        contaminated=frozenset(contaminated),
        encoder=encoder,
        max_shards=corpus.shards,
    )


def build_shards(plan: CorpusPlan, process_index: int = 0, process_count: int = 1) -> Iterator[int]:
    """Builds this process' share of the shards and yields the number of each complete one."""
    own = own_shards(plan, process_index, process_count)
    return shard_building.build_shards(plan, own, plan.corpus.processes)


def own_shards(plan: CorpusPlan, process_index: int = 0, process_count: int = 1) -> range:
    """Returns the numbers of the shards that this process builds."""
    return range(plan.shards)[process_index::process_count]


def merge_shards(plan: CorpusPlan, meta: Mapping[str, Any]) -> BuiltCorpus:
    """Merges all shards, which must be complete, into one corpus, and writes its ledger.

    Args:
      plan: plan of the corpus.
      meta: JSON data about the origin of the corpus, for its description.

    Returns:
      Counts, digests and summary of the finished corpus.

    Raises:
      UnusableCorpusError: if a part has no examples, or the recipe trains on rationales and most responses have none.
      RuntimeError: if the ledger does not account for every response.
    """
    ledger, left_out = Ledger(), collections.Counter[str]()
    for stored in plan.responses:
        for (question_id, model), count in stored.unmatched.items():
            ledger.receive(question_id, model, count)
            ledger.put(question_id, "not_selected", model, count)
            ledger.record_stage("questions", count, count)
    notes = list(shard_building.read_notes(plan))
    for note in notes:
        ledger.merge(note["ledger"])
        left_out.update(note["left_out"])
    if plan.corpus.max_responses:
        notes = subsample(plan, notes, ledger)
    parts = {part: [note["parts"][part] for note in notes] for part in plan.recipe.parts}
    num_responses = sum(int(stored.counts.sum()) + stored.unmatched.total() for stored in plan.responses)
    if ledger.total != num_responses:
        raise RuntimeError(f"{plan.folder}: {num_responses} responses are in the files, {ledger.total} in the ledger")
    _check_rationales(plan, ledger)
    dropped = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    reason_if_empty = ledger.summary() if plan.responses else dropped
    described = finish_corpus(plan.folder, parts, meta, plan.corpus.balance, reason_if_empty)
    if plan.responses:
        write_text(epath.Path(plan.folder) / "ledger.json", json.dumps(ledger.to_json(), indent=2) + "\n")
    plan.note(0).parent.rmtree()
    return BuiltCorpus(
        counts={part: description["counts"] for part, description in described.items()},
        left_out=dict(left_out),
        digests=[file["sha256"] for description in described.values() for file in description["files"]],
        summary=ledger.summary() if plan.responses else "",
    )


def _check_rationales(plan: CorpusPlan, ledger: Ledger) -> None:
    """Refuses a corpus if most of its readable responses have no rationale: they were probably misread."""
    without = ledger.bins["no_rationale"]
    readable = without + ledger.num_passed("unparsable")
    if 2 * without > readable:
        raise UnusableCorpusError(
            f"{plan.folder}: {without} of {readable} responses have no rationale, but the recipe "
            f"trains on it; {ledger.summary()}. If the rationales are in the texts, set how they are parsed "
            "(answer_pattern of the source, the task's format); to train on answers alone use the recipe 'label' or "
            "'teacher_label'"
        )
