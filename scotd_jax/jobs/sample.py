"""The sample job: a set of responses, said by a model, given by the task itself, or read from a file."""

import dataclasses

from scotd_jax.config import plain
from scotd_jax.distributed import hosts
from scotd_jax.errors import InputError
from scotd_jax.jobs.run import Run
from scotd_jax.jobs.speaking import load_speaker, read_all, speak
from scotd_jax.rationales.store import ResponseWriter, read_responses
from scotd_jax.records import Response
from scotd_jax.tasks.formats import is_correct
from scotd_jax.workdir import file_digest


def sample(run: Run, name: str) -> None:
    """rationales/NAME: responses-*.jsonl and manifest. Raises InputError if nothing is to be asked."""
    spec = run.config.rationales[name]
    seed = run.config.seed + spec.seed
    artefact = run.artefact("sample", name)
    identity = {"spec": plain(spec), "seed": seed, "questions": run.questions_identity(spec.questions)}
    if spec.source == "model":
        identity["model"] = run.model_identity(spec.model)
    elif spec.source == "file":
        identity["file"] = file_digest(spec.path)
    if not artefact.begin(identity):
        run.log("  already complete")
        return
    asked = run.ask(spec.questions)
    if not asked:
        raise InputError(f"config.rationales.{name}.questions: no questions in {', '.join(spec.questions) or '()'}")
    if spec.source == "model":
        speaker_name = spec.model.student or spec.model.path or spec.model.architecture
        speaker = load_speaker(run, speaker_name, spec.model, "bfloat16", seed)
        paths = speak(run, speaker, asked, spec.sampling, seed=seed, folder=artefact.path, shards=4)
    elif not hosts.is_first():
        return
    else:
        rows = _gold(run, spec.questions) if spec.source == "task" else _from_file(spec.path, asked)
        writer = ResponseWriter(artefact.path)
        done = writer.done()
        if missing := [row for row in rows if row.name not in done]:
            writer.write(missing)
        paths = writer.finish(list(asked), 4)
    counts = count(read_all(paths))
    run.log("  " + ", ".join(f"{key} {value}" for key, value in counts.items()))
    artefact.finish(counts, {path.name: file_digest(path) for path in paths})


def count(rows: list[Response]) -> dict[str, float]:
    correct = sum(row.correct is True for row in rows)
    return {
        "questions": len({row.question_id for row in rows}),
        "responses": len(rows),
        "correct": correct,
        "correct_share": round(correct / max(1, len(rows)), 4),
        "truncated": sum(row.finish_reason == "length" for row in rows),
        "tokens": sum(row.num_tokens for row in rows),
    }


def _gold(run: Run, sets: tuple[str, ...]) -> list[Response]:
    rows: list[Response] = []
    for set_name in sets:
        task_name, _, split = set_name.rpartition(".")
        wanted = {question.id for question in run.questions(set_name)}
        rows += [row for row in run.task(task_name).gold(split) if row.question_id in wanted]
    if not rows:
        raise InputError(f"{', '.join(sets)}: the task has no rationales of its own for these questions")
    return rows


def _from_file(path: str, asked: dict) -> list[Response]:
    """Responses joined to their questions by id, never by row; answers are parsed and compared anew."""
    rows = []
    for number, row in enumerate(read_responses([path]), 1):
        if row.question_id not in asked:
            raise InputError(f"{path} row {number}: question {row.question_id!r} is in none of the config's questions")
        question, task = asked[row.question_id]
        parsed = task.format.parse(row.text, question)
        correct = is_correct(parsed.answer, question)
        rows.append(dataclasses.replace(row, rationale=parsed.rationale, answer=parsed.answer, correct=correct))
    return rows
