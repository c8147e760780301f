"""The sample job: a set of responses, said by a model here or on a server, given by the task, or read from files."""

import collections
import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from scotd_jax.config import BatchSource, GeneratedSource, RationaleSource, RemoteSource, plain
from scotd_jax.distributed import hosts
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import Run
from scotd_jax.jobs.generation.local import load_speaker, speak
from scotd_jax.jobs.generation.servers.batch_files import ask_by_files
from scotd_jax.jobs.generation.servers.live import ask_server
from scotd_jax.jobs.generation.servers.remote_model import Remote
from scotd_jax.jobs.generation.thinking import Thinking
from scotd_jax.rationales.importers.joining import Import
from scotd_jax.rationales.release import is_released, release
from scotd_jax.rationales.store import ResponseWriter, read_responses
from scotd_jax.records import Question, Response
from scotd_jax.tasks.base import LoadedTask
from scotd_jax.tasks.question_sets import QuestionSet
from scotd_jax.workdir import Artefact, file_digest, write_text

BLOCK = 4096  # imported rows that are written at once


def sample(run: Run, name: str) -> None:
    """rationales/NAME: responses-*.jsonl, manifest, for files ledger.json, and release/ if it is asked for.

    Raises InputError if nothing is to be asked. What is released does not change what was said, so it is no part of
    the artefact's identity and can be asked for later.
    """
    spec = run.config.rationales[name]
    seed = run.config.seed + (spec.seed if isinstance(spec, GeneratedSource) else 0)
    artefact = run.artefact("sample", name)
    identity = {
        "spec": _spec(spec),
        "seed": seed,
        "questions": run.questions_identity(spec.questions),
    }
    imported = None
    if spec.source == "model":
        identity["model"] = run.model_identity(spec.model)
        identity["exemplars"] = run.exemplars_identity(spec.questions, spec.few_shot)
    elif isinstance(spec, RemoteSource):
        identity["exemplars"] = run.exemplars_identity(spec.questions, spec.few_shot)
    elif spec.source == "file":
        # Not run.skip_bad: for given files only one of its values leads to a result, or both to the same one.
        imported = Import(spec, f"config.rationales.{name}", run.skip_bad)
        identity["files"] = {str(path): file_digest(path) for path in imported.files}
    if not artefact.begin(identity):
        run.log("  already complete")
        _release(run, name, artefact)
        return
    asked = run.ask(spec.questions)
    if not asked:
        raise InputError(f"config.rationales.{name}.questions: no questions in {', '.join(spec.questions) or '()'}")
    if spec.source == "model":
        speaker_name = spec.model.student or spec.model.path or spec.model.architecture
        speaker = load_speaker(run, speaker_name, spec.model, "bfloat16", seed)
        speaker = speaker._replace(few_shot=spec.few_shot or speaker.few_shot)
        if spec.recipe:
            speaker = speaker._replace(recipe=run.recipe_named(spec.recipe, f"config.rationales.{name}.recipe"))
        if run.chats(spec.model) or spec.think:  # else such a block would be chance
            speaker = speaker._replace(thinking=Thinking(spec, f"config.rationales.{name}", speaker_name))
        paths = speak(run, speaker, asked, spec.sampling, seed=seed, folder=artefact.path, shards=4)
    elif spec.source == "server":
        paths = ask_server(run, Remote(run, spec, seed, f"config.rationales.{name}"), asked, artefact.path)
    elif not hosts.is_primary():
        return
    elif spec.source == "batch":
        paths = ask_by_files(run, Remote(run, spec, seed, f"config.rationales.{name}"), asked, artefact.path, spec.path)
    elif imported is not None:
        paths = _import(run, imported, asked, artefact)
    else:
        paths = _write(artefact, _gold(run, spec.questions), asked)
    counts = count(read_responses(paths))
    if imported is not None:
        counts["skipped"] = imported.ledger.num_skipped
    run.log("  " + ", ".join(f"{key} {value}" for key, value in counts.items()))
    artefact.finish(counts, {path.name: file_digest(path) for path in paths})
    _release(run, name, artefact)


def _spec(spec: RationaleSource) -> dict[str, Any]:
    """What of a set's settings makes it what it is. Where a server stands and how it is reached may change in between,
    and so may the place of batch results."""
    found = plain(dataclasses.replace(spec, release=""))
    if isinstance(spec, BatchSource):
        found["path"] = ""
    if isinstance(spec, RemoteSource):
        server = found.pop("server")
        found["server"] = {key: server[key] for key in ("model", "kind", "extra_body")}
    return found


def count(rows: Iterable[Response]) -> dict[str, int | float]:
    """What the manifest says of a set of responses."""
    sums: collections.Counter[str] = collections.Counter()
    questions: collections.Counter[str] = collections.Counter()
    for row in rows:
        questions[row.question_id] += 1
        sums["responses"] += 1
        sums["correct"] += row.correct is True
        sums["truncated"] += row.finish_reason == "length"
        sums["tokens"] += row.num_tokens
    return {
        "questions": len(questions),
        "responses": sums["responses"],
        "responses_max": max(questions.values(), default=0),
        "correct": sums["correct"],
        "correct_share": round(sums["correct"] / max(1, sums["responses"]), 4),
        "truncated": sums["truncated"],
        "tokens": sums["tokens"],
    }


def _gold(run: Run, sets: tuple[str, ...]) -> list[Response]:
    rows: list[Response] = []
    for set_name in sets:
        where = QuestionSet.parse(set_name)
        wanted = {question.id for question in run.questions(set_name)}
        rows += [row for row in run.task(where.task).gold(where.split) if row.question_id in wanted]
    if not rows:
        raise InputError(f"{', '.join(sets)}: the task has no rationales of its own for these questions")
    return rows


def _import(
    run: Run, imported: Import, asked: Mapping[str, tuple[Question, LoadedTask]], artefact: Artefact
) -> list[epath.Path]:
    """Everything or nothing: what a file that is refused has left behind is removed."""
    try:
        paths = _write(artefact, imported.responses(asked), asked)
    except InputError:
        artefact.remove()
        raise
    run.log(f"  {imported.ledger.summary()}")
    write_text(
        artefact.path / "ledger.json", json.dumps(imported.ledger.to_json(), indent=2, ensure_ascii=False) + "\n"
    )
    return paths


def _write(artefact: Artefact, rows: Iterable[Response], asked: Mapping[str, object]) -> list[epath.Path]:
    writer = ResponseWriter(artefact.path)
    done = writer.written_keys()
    missing = (row for row in rows if row.key not in done)
    while block := list(itertools.islice(missing, BLOCK)):
        writer.write(block)
    return writer.merge(list(asked), 4)


def _release(run: Run, name: str, artefact: Artefact) -> None:
    """rationales/NAME/release: the responses as a dataset for others."""
    spec = run.config.rationales[name]
    folder = artefact.path / "release"
    if not spec.release or not hosts.is_primary() or is_released(folder, spec.release):
        return
    asked = run.ask(spec.questions)
    release(
        folder,
        read_responses(sorted(artefact.path.glob("responses-*.jsonl"))),
        {id_: question for id_, (question, _) in asked.items()},
        lambda question: asked[question.id][1].format.prompt(question),
        kind=spec.release,
        name=name,
    )
    run.log(f"  released as {spec.release}: {folder}")
