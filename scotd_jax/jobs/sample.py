"""The sample job: makes a set of responses from a local model, a server, batch files, a task, or imported files."""

import itertools
import json
from collections.abc import Iterable, Sequence

from etils import epath

from scotd_jax.artefact import Artefact
from scotd_jax.atomic import write_text
from scotd_jax.config import (
    BatchSource,
    FileSource,
    GeneratedSource,
    ModelSource,
    RationaleSource,
    ServerSource,
    TaskSource,
)
from scotd_jax.digests import file_digest
from scotd_jax.distributed import hosts
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.failed_questions import failed_questions
from scotd_jax.jobs.generation.local import generate
from scotd_jax.jobs.generation.servers.batch_files import generate_by_batch_files
from scotd_jax.jobs.generation.servers.live import generate_on_server
from scotd_jax.jobs.generation.servers.remote_model import make_remote_model
from scotd_jax.jobs.generation.source_model import load_source_model
from scotd_jax.jobs.preparation import manifests
from scotd_jax.rationales.importers.joining import FileImport
from scotd_jax.rationales.release import is_released, release
from scotd_jax.rationales.response_counts import count_responses
from scotd_jax.rationales.store import ResponseWriter, read_responses
from scotd_jax.records import Response
from scotd_jax.tasks.question_loader import QuestionsById

ROWS_PER_WRITE = 4096
SHARDS = 4  # response files of a finished set


def sample(context: RunContext, name: str) -> None:
    """Makes rationales/NAME: responses-*.jsonl, manifest, ledger.json for imported files, and optionally a release.

    Raises:
      InputError: if there are no questions, or the source fails.
    """
    spec, artefact = context.config.rationales[name], context.artefact("sample", name)
    imported = None
    if isinstance(spec, FileSource):
        # `skip_bad` is not part of the identity: without it, an import of files with broken rows never completes.
        imported = FileImport(spec, f"config.rationales.{name}", context.skip_bad)
    identity = manifests.responses_identity(context, name, imported.files if imported else ())
    if not artefact.begin(identity):
        context.log("  already complete")
        _release(context, name, artefact)
        return
    questions = context.questions.by_id(spec.questions)
    if not questions:
        raise InputError(f"config.rationales.{name}.questions: no questions in {', '.join(spec.questions) or '()'}")
    if isinstance(spec, GeneratedSource) and spec.failed_in:
        questions = failed_questions(context, name, questions)
    # All hosts generate with local models and servers; only the first host reads batch files, tasks and imports.
    if not isinstance(spec, ModelSource | ServerSource) and not hosts.is_primary():
        return
    if imported is not None:
        paths = _from_files(context, imported, questions, artefact)
    else:
        paths = _generate(context, name, spec, questions, artefact.path)
    counts = count_responses(read_responses(paths))
    if imported is not None:
        counts["skipped"] = imported.ledger.num_skipped
    context.log("  " + ", ".join(f"{key} {value}" for key, value in counts.items()))
    artefact.finish(counts, {path.name: file_digest(path) for path in paths})
    _release(context, name, artefact)


def _generate(
    context: RunContext, name: str, spec: RationaleSource, questions: QuestionsById, folder: epath.Path
) -> list[epath.Path]:
    """Writes the missing responses of any source except files, and returns all response files."""
    where = f"config.rationales.{name}"
    match spec:
        case ModelSource():
            model, seed = load_source_model(context, name, spec), context.config.seed + spec.seed
            return generate(context, model, questions, spec.sampling, seed=seed, folder=folder, shards=SHARDS)
        case ServerSource():
            model = make_remote_model(context, spec, context.config.seed + spec.seed, where)
            return generate_on_server(context, model, questions, folder)
        case BatchSource():
            model = make_remote_model(context, spec, context.config.seed + spec.seed, where)
            return generate_by_batch_files(context, model, questions, folder, spec.path)
        case TaskSource():
            return _write(folder, _task_responses(context, spec.questions), questions)
        case FileSource():
            raise ValueError("files are imported, not generated")


def _task_responses(context: RunContext, set_names: Sequence[str]) -> list[Response]:
    """The gold rationales of tasks for the questions of some sets, as responses."""
    rows = context.questions.gold(set_names)
    if not rows:
        raise InputError(f"{', '.join(set_names)}: the task has no gold rationales for these questions")
    return rows


def _from_files(
    context: RunContext, imported: FileImport, questions: QuestionsById, artefact: Artefact
) -> list[epath.Path]:
    """Imports files. Removes the artefact if a file is refused, so that no partial import remains."""
    try:
        paths = _write(artefact.path, imported.responses(questions), questions)
    except InputError:
        artefact.remove()
        raise
    context.log(f"  {imported.ledger.summary()}")
    ledger = json.dumps(imported.ledger.to_json(), indent=2, ensure_ascii=False)
    write_text(artefact.path / "ledger.json", ledger + "\n")
    return paths


def _write(folder: epath.Path, rows: Iterable[Response], questions: QuestionsById) -> list[epath.Path]:
    """Writes the rows that are not in `folder` yet, and returns all response files."""
    writer = ResponseWriter(folder)
    done = writer.written_keys()
    missing = (row for row in rows if row.key not in done)
    while block := list(itertools.islice(missing, ROWS_PER_WRITE)):
        writer.write(block)
    return writer.merge(list(questions), SHARDS)


def _release(context: RunContext, name: str, artefact: Artefact) -> None:
    """Writes the responses as a dataset to rationales/NAME/release, if the config sets a release format."""
    spec = context.config.rationales[name]
    folder = artefact.path / "release"
    if not spec.release or not hosts.is_primary() or is_released(folder, spec.release):
        return
    questions = context.questions.by_id(spec.questions)
    release(
        folder,
        read_responses(context.response_files(name)),
        {id_: question for id_, (question, _) in questions.items()},
        lambda question: questions[question.id][1].format.prompt(question),
        kind=spec.release,
        name=name,
    )
    artefact.record_files("release")
    context.log(f"  released as {spec.release}: {folder}")
