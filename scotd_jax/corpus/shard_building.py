"""What a shard of a corpus holds, as a function of the corpus' input alone, and worker processes that make shards.

A `Plan` is that input. Shard s takes consecutive questions; whoever builds it reads their responses, filters, alters
and encodes them, writes the shard of every part, and last of all a note of what it did:

    FOLDER/shards/00000-of-00004.json       the facts of its files, its ledger, and questions that were left out

A shard that has its note is done, so a build that was cut goes on with the others. This file is imported by worker
processes and therefore leaves JAX alone.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from scotd_jax.config import Corpus, Recipe
from scotd_jax.corpus.grouped_example import GroupedExample
from scotd_jax.corpus.shards import ShardWriter, shard_range
from scotd_jax.errors import InputError
from scotd_jax.rationales.controls import apply_control
from scotd_jax.rationales.filters import filter_responses, keep_within_limits
from scotd_jax.rationales.ledger import Ledger
from scotd_jax.rationales.stored_responses import StoredResponses, concatenate_sets
from scotd_jax.records import Prompt, Question, Response
from scotd_jax.tasks import recipes
from scotd_jax.tasks.exemplars import join_prompt
from scotd_jax.tasks.prompt_formats import PromptFormat
from scotd_jax.tokenization import PromptEncoder
from scotd_jax.workdir import read_json, write_text

Made = dict[str, list[GroupedExample]]  # the examples of one question, per part


class Entry(NamedTuple):
    """A question, the format in which it is asked, and the exemplars that come before its prompts: text, or turns."""

    question: Question
    style: PromptFormat
    exemplars: Prompt = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that decides a corpus. `questions` are those asked, in order, `places` those of them that are looked at,
    and `sets` their responses; none for a recipe that uses none."""

    folder: str
    corpus: Corpus
    recipe: Recipe
    questions: Sequence[Entry]
    places: np.ndarray
    sets: Sequence[StoredResponses]
    contaminated: frozenset[str]
    encoder: PromptEncoder
    shards: int

    def note(self, shard: int) -> epath.Path:
        return epath.Path(self.folder) / "shards" / f"{shard:05d}-of-{self.shards:05d}.json"

    @property
    def needs_answer(self) -> bool:
        return recipes.uses_fields(self.recipe, "answer") or self.corpus.keep != "all"


def build_shards(plan: Plan, shards: Sequence[int], processes: int) -> Iterator[int]:
    """Builds those of `shards` that have no note yet, and yields the number of each that is done.

    Raises InputError on bad input, a full disk, and when a worker process was killed.
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
    with concurrent.futures.ProcessPoolExecutor(workers, spawn, initializer=_start, initargs=(plan,)) as pool:
        try:
            for done in concurrent.futures.as_completed([pool.submit(_build, shard) for shard in missing]):
                yield done.result()
        except BrokenProcessPool:
            raise InputError(
                f"{plan.folder}: a worker process was killed, probably for want of memory; give the same command "
                "again, with fewer processes in the corpus' config"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


_PLAN: list[Plan] = []  # of a worker process


def _start(plan: Plan) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are as many threads as were asked for
    _PLAN[:] = [plan]


def _build(shard: int) -> int:
    build_shard(_PLAN[0], shard)
    return shard


def build_shard(plan: Plan, shard: int) -> None:
    """Writes one shard of every part, and its note."""
    own = plan.places[shard_range(shard, plan.shards, len(plan.places))].tolist()
    ledger, left_out = Ledger(), collections.Counter[str]()
    with contextlib.ExitStack() as stack:
        for each in plan.sets:
            stack.callback(each.close)
        writers = {
            part: stack.enter_context(ShardWriter(plan.folder, part, shard, plan.shards)) for part in plan.recipe.parts
        }
        made = _from_responses(plan, own, ledger) if plan.sets else _from_questions(plan, own, left_out)
        for examples in made:
            for part, writer in writers.items():
                for example in examples[part]:
                    writer.write(example)
    facts = {part: writer.facts for part, writer in writers.items()}
    note = {"parts": facts, "ledger": ledger.to_json(), "left_out": dict(sorted(left_out.items()))}
    write_text(plan.note(shard), json.dumps(note) + "\n")


def read_notes(plan: Plan) -> Iterator[dict[str, Any]]:
    """The notes of all shards in order, each of which must be there."""
    return (read_json(plan.note(shard)) for shard in range(plan.shards))


def _from_questions(plan: Plan, places: Sequence[int], left_out: collections.Counter) -> Iterator[Made]:
    """Of a recipe that uses no responses."""
    for place in places:
        if plan.questions[place].question.id in plan.contaminated:
            left_out["contaminated"] += 1
            continue
        made = encode(plan, plan.questions[place], [])
        ((prompt, target),) = sizes(plan, made, [0])
        if prompt > plan.corpus.max_prompt_tokens or target > plan.corpus.max_response_tokens:
            left_out["too_long"] += 1
            continue
        yield made


def _from_responses(plan: Plan, places: Sequence[int], ledger: Ledger) -> Iterator[Made]:
    kind = plan.corpus.rationale_control
    sorted_out = (_select(plan, place, ledger) for place in places)
    if kind == "own":
        for _, rows, made in sorted_out:
            keep_within_limits(rows, [(0, 0)] * len(rows), plan.corpus, ledger)
            if rows:
                yield chosen(plan, made, rows)
        return
    groups = ((question, rows) for question, rows, _ in sorted_out)
    before = _kept_before(plan, places[0]) if kind == "other" and places else ()
    entries = {plan.questions[place].question.id: plan.questions[place] for place in places}
    for question, rows in apply_control(kind, groups, before):
        made = encode(plan, entries[question.id], rows)
        kept = keep_within_limits(rows, sizes(plan, made, [row.sample_index for row in rows]), plan.corpus, ledger)
        if kept:
            yield chosen(plan, made, kept)


def _select(plan: Plan, place: int, ledger: Ledger) -> tuple[Question, list[Response], Made]:
    """A question, those of its responses that pass the filters, and the examples that all which are read make."""
    entry = plan.questions[place]
    made: Made = {}

    def token_counts(rows: list[Response]) -> list[tuple[int, int]]:
        made.update(encode(plan, entry, rows))
        return sizes(plan, made, [row.sample_index for row in rows])

    responses = concatenate_sets(each.read(place) for each in plan.sets)
    contaminated = entry.question.id in plan.contaminated
    kept = filter_responses(responses, plan.corpus, token_counts, ledger, plan.needs_answer, contaminated)
    return entry.question, kept, made


def _kept_before(plan: Plan, place: int) -> list[Response]:
    """The responses that pass for the nearest question before `place` that has any; before the first comes the last."""
    at = int(np.searchsorted(plan.places, place))
    for step in range(1, len(plan.places)):
        _, rows, _ = _select(plan, int(plan.places[at - step]), Ledger())
        if rows:
            return rows
    raise InputError(
        f"{plan.folder}: rationale='other' needs another question to take rationales from, and none has any left; "
        "look at the responses and at the corpus' limits"
    )


def encode(plan: Plan, entry: Entry, rows: Sequence[Response]) -> Made:
    """The examples that all parts make of a question and some responses; every text is encoded once.

    A corpus that is balanced over responses has an example of its own for each of them.
    """
    question, style, exemplars = entry
    flat = plan.corpus.balance == "responses" and bool(rows)
    texts: list[tuple[str, str, list[tuple[int, str]]]] = []
    for name, part in plan.recipe.parts.items():
        for alone in [[row] for row in rows] if flat else [rows]:
            for prompt, said in recipes.training_examples(part, style, question, alone):
                prompt = plan.encoder.render(join_prompt(exemplars, prompt))
                texts.append((name, prompt, [(alone[0].sample_index, text) for _, text in said] if flat else said))
    different = list(dict.fromkeys(text for _, prompt, said in texts for text in (prompt, *(t for _, t in said))))
    ids = dict(zip(different, plan.encoder(different), strict=True))
    # A target that ends in a stop string needs no end token (SCoTD trains OPT with none).
    end = [] if style.end else [plan.encoder.eos_id]
    made: Made = {name: [] for name in plan.recipe.parts}
    for name, prompt, said in texts:
        made[name].append(
            GroupedExample(
                question_id=question.id,
                task=question.task,
                prompt=[*plan.encoder.prefix_ids, *ids[prompt], *plan.encoder.suffix_ids],
                responses=[ids[text] + end for _, text in said],
                sample_index=[index for index, _ in said],
            )
        )
    return made


def chosen(plan: Plan, made: Made, rows: Sequence[Response]) -> Made:
    """What is left of the examples when only `rows` are kept, which must not be none."""
    wanted = {row.sample_index for row in rows}
    return {
        name: examples if _is_one(plan, name) else [left for e in examples if (left := e.select_samples(wanted))]
        for name, examples in made.items()
    }


def sizes(plan: Plan, made: Made, samples: Sequence[int]) -> list[tuple[int, int]]:
    """For each of some samples the tokens of the longest prompt and of the longest response that it appears in."""
    longest = dict.fromkeys(samples, (0, 0))
    for name, examples in made.items():
        for example in examples:
            said = zip(example.sample_index, example.responses, strict=True)
            if _is_one(plan, name):
                said = ((sample, example.responses[0]) for sample in samples)
            for sample, response in said:
                prompt, target = longest[sample]
                longest[sample] = max(prompt, len(example.prompt)), max(target, len(response))
    return [longest[sample] for sample in samples]


def _is_one(plan: Plan, name: str) -> bool:
    """Whether a part makes one example of a question, whatever the responses to it."""
    part = plan.recipe.parts[name]
    uses = recipes.fields_of(part.prompt, part.target) & set(recipes.RESPONSE_FIELDS)
    return not uses and (plan.corpus.balance == "questions" or not plan.sets)
