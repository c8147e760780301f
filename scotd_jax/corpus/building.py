"""Builds a corpus from questions and responses: first its shards, then one corpus of all shards."""

import collections
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from scotd_jax.atomic import write_text
from scotd_jax.config import Corpus, Recipe
from scotd_jax.corpus import shard_building
from scotd_jax.corpus.description import finish_corpus
from scotd_jax.corpus.question_examples import PromptedQuestion
from scotd_jax.corpus.shard_building import CorpusPlan
from scotd_jax.corpus.subsampling import subsample
from scotd_jax.errors import InputError, UnusableCorpusError
from scotd_jax.rationales.ledger import Ledger
from scotd_jax.rationales.open_endedness import open_ended_caps, variety
from scotd_jax.rationales.stored_responses import StoredResponses
from scotd_jax.rationales.student_scores import StudentScores
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
    score_files: Iterable[epath.Path] = (),
) -> CorpusPlan:
    """Returns the plan of a corpus: all inputs, with the rows of all response files located.

    The rows are not read, unless the selection compares questions (`cap_by="open_ended"`).

    Args:
      folder: folder of the corpus.
      corpus: settings of the corpus.
      recipe: recipe of the corpus.
      questions: the questions, in order.
      response_files: for each set of responses its files.
      encoder: encodes texts for the models that read the corpus.
      contaminated: ids of the questions to leave out.
      score_files: for each set of responses the file of its scores, if the selection compares them.

    Raises:
      InputError: on a damaged file of responses, or if no question has as many responses as the corpus selects.
    """
    index = {prompted.question.id: i for i, prompted in enumerate(questions)}
    plan = CorpusPlan(
        folder=str(folder),
        corpus=corpus,
        recipe=recipe,
        questions=questions,
        responses=[StoredResponses(files, index) for files in response_files],
        contaminated=frozenset(contaminated),
        encoder=encoder,
        max_shards=corpus.shards,
        scores=[StoredResponses([path], index, StudentScores) for path in score_files],
    )
    if corpus.cap and plan.responses:
        _check_cap(plan)
    return dataclasses.replace(plan, caps=_caps(plan)) if corpus.cap_by == "open_ended" else plan


def _check_cap(plan: CorpusPlan) -> None:
    """Refuses a cap that no question exceeds, which would make all selections equal."""
    corpus, counts = plan.corpus, np.sum([stored.counts for stored in plan.responses], axis=0)
    most = int(counts.max(initial=0))
    most = min(most, corpus.n or most)
    if corpus.cap > most:
        raise InputError(
            f"{plan.folder}: cap={corpus.cap} would select nothing, as no question has more than {most} responses"
            f"{f' (n={corpus.n})' if corpus.n else ''}; lower cap"
        )


def _caps(plan: CorpusPlan) -> list[int]:
    """The number of responses to retain per question; 0, which is never read, for questions without responses."""
    varieties = []
    for index in plan.indices.tolist():
        rows, _ = plan.read_responses(index)
        varieties.append(variety(row for row in rows if not plan.corpus.n or row.sample_index < plan.corpus.n))
    plan.close()
    caps = np.zeros(len(plan.questions), np.int64)
    caps[plan.indices] = open_ended_caps(varieties, plan.corpus.cap)
    return caps.tolist()


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
      UnusableCorpusError: if a part has no examples, the recipe trains on rationales and most responses have none, or
        cap_by="teacher_mix" finds a single teacher.
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
    _check_teachers(plan, ledger)
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


def _check_teachers(plan: CorpusPlan, ledger: Ledger) -> None:
    """Refuses a mix of teachers if all selected and unselected responses are from one of them."""
    teachers = ledger.sources_of("kept", "over_cap")
    if plan.corpus.cap_by == "teacher_mix" and len(teachers) < 2:
        raise UnusableCorpusError(
            f"{plan.folder}: cap_by='teacher_mix' takes the responses of every teacher in turn, but all that pass the "
            f"filters are from {' '.join(map(repr, teachers)) or 'none'}; list the sets of several teachers in "
            "rationales, or choose another cap_by"
        )
