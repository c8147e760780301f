"""The build job: rationales are filtered, selected and encoded into a corpus that students read.

Shards are built apart (corpus/shard_building.py): by all hosts, each of them with as many processes as the corpus'
config says. The first host then makes one corpus of them. Neither changes a byte.
"""

import collections
import dataclasses
import json
from typing import Any

import jax
import numpy as np

from scotd_jax.config import Corpus, Model, ModelSource, plain
from scotd_jax.corpus import shard_building
from scotd_jax.corpus.description import finish_corpus
from scotd_jax.corpus.shard_building import Entry, Plan
from scotd_jax.distributed import hosts
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import Run
from scotd_jax.jobs.graph import eval_specs
from scotd_jax.rationales.contamination import contaminated_ids
from scotd_jax.rationales.ledger import Ledger
from scotd_jax.rationales.stored_responses import StoredResponses
from scotd_jax.records import Prompt
from scotd_jax.tasks import recipes
from scotd_jax.tasks.base import LoadedTask
from scotd_jax.tasks.prompt_formats import PromptFormat
from scotd_jax.tokenization import Tokenizer
from scotd_jax.workdir import Artefact, digest, write_text


def build(run: Run, name: str) -> None:
    """corpora/NAME: PART-*.tfrecord with index, PART.json, ledger.json, README.md, what TFDS wants, and manifest.

    Raises InputError if no response is left, if the students that read the corpus do not share a tokenizer, and if
    they are evaluated on the very questions of the corpus.
    """
    spec, recipe = run.config.corpora[name], run.recipe(name)
    if spec.rationale_control != "own" and not recipes.uses_fields(recipe, "rationale"):
        raise InputError(f"config.corpora.{name}.rationale: recipe {spec.recipe!r} uses no rationale that could change")
    artefact = run.artefact("build", name)
    tokenizer, kind, reader = _readers(run, name)
    chat = run.chats(reader)
    sets = run.corpus_sets(name)
    dropped = _contaminated(run, name, sets)
    facts = {"tokenizer": tokenizer.fingerprint(), "kind": kind, "spec": _spec(spec)}
    if chat:
        facts["chat"] = digest(tokenizer.chat_template)
    identity = facts | {
        "recipe": plain(recipe),
        "questions": run.questions_identity(sets),
        "exemplars": run.exemplars_identity(sets, spec.few_shot),
        "contaminated": digest(sorted(dropped)),
        "rationales": [run.artefact("sample", each).digest for each in spec.rationales],
    }
    if not artefact.begin(identity):
        run.log("  already complete")
        return
    if dropped:
        run.log(f"  {len(dropped)} questions overlap with evaluation questions and are left out")
    asked = run.ask(sets)

    def manner(task: LoadedTask) -> tuple[PromptFormat, Prompt]:
        style = run.style(name) or task.format
        return style, run.opening(reader)(task, style, spec.few_shot)

    place = {id_: i for i, id_ in enumerate(asked)}
    stored = [StoredResponses(_files(run, each), place) for each in spec.rationales]
    answered = sum((each.counts for each in stored), np.zeros(len(asked), np.int64))
    places = np.flatnonzero(answered) if stored else np.arange(len(asked))
    plan = Plan(
        folder=str(artefact.path),
        corpus=spec,
        recipe=recipe,
        questions=[Entry(question, *manner(task)) for question, task in asked.values()],
        places=places,
        sets=stored,
        contaminated=frozenset(dropped),
        encoder=tokenizer.encoder(kind, chat),
        shards=max(1, min(spec.shards, len(places))),
    )
    own = range(plan.shards)[jax.process_index() :: jax.process_count()]
    with run.progress(len(own), "  building", "shards") as progress:
        for _ in shard_building.build_shards(plan, own, spec.processes):
            progress.advance(1)
    hosts.sync_processes(f"{artefact.path} has its shards")
    if hosts.is_primary():
        _finish(run, artefact, plan, {"name": name} | facts)
    hosts.sync_processes(f"{artefact.path} is whole")


def _finish(run: Run, artefact: Artefact, plan: Plan, meta: dict[str, Any]) -> None:
    """Makes one corpus of all shards and their notes."""
    ledger, left_out = Ledger(), collections.Counter[str]()
    for each in plan.sets:
        for (question_id, model), count in each.unmatched.items():
            ledger.receive(question_id, model, count)
            ledger.put(question_id, "not_selected", model, count)
            ledger.record_stage("questions", count, count)
    parts: dict[str, list[Any]] = {part: [] for part in plan.recipe.parts}
    for note in shard_building.read_notes(plan):
        ledger.merge(note["ledger"])
        left_out.update(note["left_out"])
        for part, facts in note["parts"].items():
            parts[part].append(facts)
    read = sum(int(each.counts.sum()) + each.unmatched.total() for each in plan.sets)
    if ledger.total != read:
        raise RuntimeError(f"{artefact.path}: {read} responses are in the files, {ledger.total} in the ledger")
    took = ", ".join(f"{count} {bin_}" for bin_, count in left_out.items())
    reason = ledger.summary() if plan.sets else took
    described = finish_corpus(artefact.path, parts, meta, plan.corpus.balance, reason)
    if plan.sets:
        write_text(artefact.path / "ledger.json", json.dumps(ledger.to_json(), indent=2) + "\n")
    elif took:
        run.log(f"  questions left out: {took}")
    plan.note(0).parent.rmtree()
    counts = {part: description["counts"] for part, description in described.items()}
    for part, size in counts.items():
        saving = f"; prompts computed once save {size['grouping_gain']:.1f} x the tokens"
        run.log(
            f"  {part}: {size['questions']} questions with {size['responses']} responses"
            + saving * (size["grouping_gain"] > 1.05)
        )
    # A corpus of one part is told by that part's counts.
    counts = next(iter(counts.values())) if len(counts) == 1 else counts
    files = [file["sha256"] for description in described.values() for file in description["files"]]
    artefact.finish(counts | ({"left_out": dict(left_out)} if left_out else {}), files)


def _spec(spec: Corpus) -> dict[str, Any]:
    """What of a corpus' config decides its content: not by how many processes it is built."""
    return plain(dataclasses.replace(spec, processes=1))


def _files(run: Run, rationales: str) -> list:
    return sorted(run.artefact("sample", rationales).path.glob("responses-*.jsonl"))


def _contaminated(run: Run, name: str, sets: tuple[str, ...]) -> list[str]:
    """The questions of a corpus that its students meet again when they are evaluated, or when they say rationales
    with which another student is.

    Raises InputError if that is one of the corpus' own sets.
    """
    spec, config = run.config.corpora[name], run.config
    if not spec.decontaminate:
        return []

    def concerned(student: str, given: tuple[str, ...]) -> bool:
        sources = [config.rationales[source] for source in given]
        speakers = [source.model.student for source in sources if isinstance(source, ModelSource)]
        return any(config.students[each].corpus == name for each in (student, *filter(None, speakers)))

    evaluated: dict[str, str] = {}
    for key, student in config.students.items():
        if concerned(key, student.rationales_from):
            evaluated |= dict.fromkeys(student.dev_sets, key)
    for asking in eval_specs(config).values():
        if concerned(asking.student, asking.rationales_from):
            evaluated |= dict.fromkeys(asking.eval_sets, asking.student)
    if both := [each for each in sets if each in evaluated]:
        raise InputError(
            f"config.corpora.{name}: student {evaluated[both[0]]!r} reads {both[0]!r} and is evaluated on it, so "
            "all of its questions would be left out; name another set, or set decontaminate=0"
        )
    questions = (question for each in sets for question in run.questions(each))
    evaluation = (question for each in evaluated for question in run.questions(each))
    return contaminated_ids(questions, evaluation, spec.decontaminate)


def _readers(run: Run, name: str) -> tuple[Tokenizer, str, Model]:
    """Tokenizer and kind of model of the students that read the corpus, and the model of one of them."""
    found = {}
    for student_name, student in run.config.students.items():
        if student.corpus == name:
            tokenizer, kind = run.tokenizer(student.model), run.model_config(student.model).kind
            template = tokenizer.chat_template if run.chats(student.model) else ""
            found[tokenizer.fingerprint(), kind, template] = student_name, tokenizer, student.model
    if len(found) > 1:
        names = " and ".join(student_name for student_name, *_ in found.values())
        raise InputError(
            f"config.corpora.{name}: read by students of different tokenizers, kinds or chat templates ({names}); give "
            "each its corpus"
        )
    ((_, kind, _), (_, tokenizer, model)) = next(iter(found.items()))
    return tokenizer, kind, model
