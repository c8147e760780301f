"""Builds the shards of a corpus, in this process or in several.

The content of a corpus depends on its `CorpusPlan` alone. Each shard holds consecutive questions. A process reads and
filters their responses, applies the control to the rationales, encodes everything, writes a file for every part, and
finally writes a note:

    FOLDER/shards/00000-of-00004.json       facts about the files, the ledger, and counts of questions left out

A shard with a note is complete, so an interrupted build resumes with the remaining shards. Worker processes
import this file, so it must not import JAX.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
from etils import epath

from scotd_jax.atomic import write_text
from scotd_jax.config import Corpus, Recipe
from scotd_jax.corpus.question_examples import ExampleEncoder, ExamplesByPart, PromptedQuestion
from scotd_jax.corpus.shards import ShardWriter, shard_range
from scotd_jax.errors import InputError, UnusableCorpusError
from scotd_jax.rationales.controls import apply_control
from scotd_jax.rationales.filters import filter_responses, keep_within_limits
from scotd_jax.rationales.ledger import Ledger
from scotd_jax.rationales.stored_responses import StoredResponses, concatenate_sets
from scotd_jax.rationales.student_scores import StudentScores
from scotd_jax.records import Question, Response
from scotd_jax.strict_json import read_json
from scotd_jax.tasks import recipes
from scotd_jax.tokenization import PromptEncoder


@dataclasses.dataclass(frozen=True)
class CorpusPlan:
    """All inputs of a corpus; equal plans give equal bytes.

    Attributes:
      folder: folder of the corpus.
      corpus: settings of the corpus.
      recipe: recipe of the corpus.
      questions: all questions, in order.
      responses: sets of responses to these questions; empty for a recipe that uses none.
      contaminated: ids of the questions to leave out.
      encoder: tokenizes prompts and targets.
      max_shards: maximum number of shards; there are fewer if there are fewer questions.
      scores: for every set of responses their scores under a student; empty if the selection compares none.
      caps: number of responses to retain per question, where it differs between questions; None is that of the corpus.
    """

    folder: str
    corpus: Corpus
    recipe: Recipe
    questions: Sequence[PromptedQuestion]
    responses: Sequence[StoredResponses]
    contaminated: frozenset[str]
    encoder: PromptEncoder
    max_shards: int
    scores: Sequence[StoredResponses] = ()
    caps: Sequence[int] | None = None

    @functools.cached_property
    def indices(self) -> np.ndarray:
        """Indices of the questions that have responses; of all questions for a recipe that uses none."""
        if not self.responses:
            return np.arange(len(self.questions))
        return np.flatnonzero(sum(stored.counts for stored in self.responses))

    @property
    def shards(self) -> int:
        """Number of shards."""
        return max(1, min(self.max_shards, len(self.indices)))

    @property
    def example_encoder(self) -> ExampleEncoder:
        """Encoder of questions and responses with the settings of this plan."""
        return ExampleEncoder(self.corpus, self.recipe, self.encoder, bool(self.responses))

    @property
    def needs_answer(self) -> bool:
        """Whether the corpus needs an answer in every response."""
        return recipes.uses_fields(self.recipe, "answer") or self.corpus.keep != "all"

    @property
    def needs_rationale(self) -> bool:
        """Whether the corpus needs a rationale in every response."""
        return recipes.trains_on_rationales(self.recipe)

    def read_responses(self, index: int) -> tuple[list[Response], dict[int, StudentScores]]:
        """Returns the responses of all sets to a question, and the scores of those that have any, by sample index."""
        sets = [stored.read(index) for stored in self.responses]
        rows = concatenate_sets(sets)
        scores_of_sets = [{scores.sample_index: scores for scores in stored.read(index)} for stored in self.scores]
        # Rows keep their order, but not their sample indices, when sets are concatenated.
        found = (of_set.get(row.sample_index) for of_set, own in zip(scores_of_sets, sets, strict=False) for row in own)
        return rows, {row.sample_index: scores for row, scores in zip(rows, found, strict=False) if scores is not None}

    def close(self) -> None:
        """Closes the files of responses and scores."""
        for stored in (*self.responses, *self.scores):
            stored.close()

    def note(self, shard: int) -> epath.Path:
        """Returns the path of a shard's note."""
        return epath.Path(self.folder) / "shards" / f"{shard:05d}-of-{self.shards:05d}.json"


def build_shards(plan: CorpusPlan, shards: Sequence[int], processes: int) -> Iterator[int]:
    """Builds the shards that have no note yet. Yields the number of every complete shard, the existing ones first.

    Args:
      plan: plan of the corpus.
      shards: numbers of the shards.
      processes: number of worker processes; 1 builds in this process.

    Raises:
      InputError: on bad input, a full disk, and when a worker process was killed.
    """
    missing = [shard for shard in shards if not plan.note(shard).exists()]
    yield from (shard for shard in shards if shard not in missing)
    if processes < 2 or len(missing) < 2:
        for shard in missing:
            build_shard(plan, shard)
            yield shard
        return
    spawn = multiprocessing.get_context("spawn")
    workers = min(processes, len(missing))
    with concurrent.futures.ProcessPoolExecutor(workers, spawn, initializer=_start_worker, initargs=(plan,)) as pool:
        try:
            for done in concurrent.futures.as_completed([pool.submit(_build_in_worker, shard) for shard in missing]):
                yield done.result()
        except BrokenProcessPool:
            raise InputError(
                f"{plan.folder}: a worker process was killed, probably because memory ran out; run the same command "
                "again with fewer processes in the corpus' config"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def build_shard(plan: CorpusPlan, shard: int) -> None:
    """Writes one shard of every part, and its note."""
    indices = plan.indices[shard_range(shard, plan.shards, len(plan.indices))].tolist()
    ledger, left_out = Ledger(), collections.Counter[str]()
    kept: list[Response] = []
    with contextlib.ExitStack() as stack:
        stack.callback(plan.close)
        writers = {
            part: stack.enter_context(ShardWriter(plan.folder, part, shard, plan.shards)) for part in plan.recipe.parts
        }
        if plan.responses:
            examples_of_questions = _from_responses(plan, indices, ledger, kept)
        else:
            examples_of_questions = _from_questions(plan, indices, left_out)
        for examples in examples_of_questions:
            for part, writer in writers.items():
                for example in examples[part]:
                    writer.write(example)
    facts = {part: writer.facts for part, writer in writers.items()}
    note: dict[str, Any] = {"parts": facts, "ledger": ledger.to_json(), "left_out": dict(sorted(left_out.items()))}
    if plan.corpus.max_responses:
        note["kept"] = _kept_samples(kept)
    write_text(plan.note(shard), json.dumps(note) + "\n")


def read_notes(plan: CorpusPlan) -> Iterator[dict[str, Any]]:
    """Reads the notes of all shards, in order; every shard must be complete."""
    return (read_json(plan.note(shard)) for shard in range(plan.shards))


_PLAN: list[CorpusPlan] = []  # the plan of this worker process


def _start_worker(plan: CorpusPlan) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # otherwise every worker would start threads for all cores
    _PLAN[:] = [plan]


def _build_in_worker(shard: int) -> int:
    build_shard(_PLAN[0], shard)
    return shard


def _from_questions(
    plan: CorpusPlan, indices: Sequence[int], left_out: collections.Counter
) -> Iterator[ExamplesByPart]:
    """Examples of a recipe that uses no responses."""
    for index in indices:
        if plan.questions[index].question.id in plan.contaminated:
            left_out["contaminated"] += 1
            continue
        examples = plan.example_encoder.encode(plan.questions[index], [])
        ((prompt, target),) = plan.example_encoder.token_counts(examples, [0])
        if prompt > plan.corpus.max_prompt_tokens or target > plan.corpus.max_response_tokens:
            left_out["too_long"] += 1
            continue
        yield examples


def _kept_samples(rows: Sequence[Response]) -> list[dict[str, Any]]:
    """The kept samples of every question and model, for `subsampling.subsample`."""
    samples: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        samples.setdefault((row.question_id, row.model), []).append(row.sample_index)
    return [{"question_id": id_, "model": model, "samples": found} for (id_, model), found in samples.items()]


def _from_responses(
    plan: CorpusPlan, indices: Sequence[int], ledger: Ledger, kept: list[Response]
) -> Iterator[ExamplesByPart]:
    """Examples of the responses that pass the filters, with their rationales altered by the corpus' control.

    The responses are appended to `kept` if the corpus is sub-sampled later.
    """
    control = plan.corpus.rationale_control
    selected = (_select(plan, index, ledger) for index in indices)
    if control == "own":
        # The stage "tokens" has applied the limits to the same rationales, so no length can exceed them here.
        for _, rows, examples in selected:
            keep_within_limits(rows, [(0, 0)] * len(rows), plan.corpus, ledger)
            if rows:
                kept += rows if plan.corpus.max_responses else []
                yield plan.example_encoder.select(examples, [row.sample_index for row in rows])
        return
    groups = ((question, rows) for question, rows, _ in selected)
    before = _selected_before(plan, indices[0]) if control == "other" and indices else ()
    prompted = {plan.questions[index].question.id: plan.questions[index] for index in indices}
    for question, rows in apply_control(control, groups, before):
        examples = plan.example_encoder.encode(prompted[question.id], rows)
        counts = plan.example_encoder.token_counts(examples, [row.sample_index for row in rows])
        within = keep_within_limits(rows, counts, plan.corpus, ledger)
        if within:
            kept += within if plan.corpus.max_responses else []
            yield plan.example_encoder.select(examples, [row.sample_index for row in within])


def _select(plan: CorpusPlan, index: int, ledger: Ledger) -> tuple[Question, list[Response], ExamplesByPart]:
    """Returns a question, its responses that pass the filters, and the examples of all responses that were encoded."""
    prompted = plan.questions[index]
    examples: ExamplesByPart = {}

    def token_counts(rows: list[Response]) -> list[tuple[int, int]]:
        examples.update(plan.example_encoder.encode(prompted, rows))
        return plan.example_encoder.token_counts(examples, [row.sample_index for row in rows])

    responses, scores = plan.read_responses(index)
    rows = filter_responses(
        responses,
        plan.corpus,
        token_counts,
        ledger,
        needs_answer=plan.needs_answer,
        contaminated=prompted.question.id in plan.contaminated,
        needs_rationale=plan.needs_rationale,
        cap=None if plan.caps is None else plan.caps[index],
        scores=scores,
    )
    return prompted.question, rows, examples


def _selected_before(plan: CorpusPlan, index: int) -> list[Response]:
    """Returns the selected responses of the nearest earlier question that has any, or else of the last such one."""
    position = int(np.searchsorted(plan.indices, index))
    for step in range(1, len(plan.indices)):
        _, rows, _ = _select(plan, int(plan.indices[position - step]), Ledger())
        if rows:
            return rows
    raise UnusableCorpusError(
        f"{plan.folder}: rationale_control='other' needs another question to take rationales from, and none has any "
        "left; look at the responses and at the corpus' limits"
    )
