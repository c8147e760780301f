"""Batch files: writes requests to files that the user submits, and reads the result files.

The files are for OpenAI's batch interface, compatible ones, and `vllm run-batch`. Every sample is a separate request
with the id QUESTION_ID#SAMPLE, so results may be in any order, in any number of files, and incomplete. Only missing
samples are requested again.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

from scotd_jax.atomic import atomic_write, write_text
from scotd_jax.errors import InputError, MissingResultsError
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.servers.remote_model import RemoteModel
from scotd_jax.jobs.generation.servers.requests import PATHS
from scotd_jax.rationales.importers.import_ledger import ImportLedger
from scotd_jax.rationales.importers.imported import BadRow, BadRowError, ImportedResponse
from scotd_jax.rationales.importers.openai import openai_batch
from scotd_jax.rationales.importers.row_readers import expand_paths
from scotd_jax.rationales.store import ResponseWriter
from scotd_jax.records import Response
from scotd_jax.tasks.question_loader import QuestionsById

MAX_REQUESTS = 50_000  # requests per file: the limit of OpenAI's batch interface
MAX_BYTES = 180 * 10**6  # bytes per file: the limit of OpenAI, 200 MB, with a margin
ROWS_PER_WRITE = 4096
MAX_LOGGED_ROWS = 3  # number of unusable rows that are logged individually


def generate_by_batch_files(
    context: RunContext, model: RemoteModel, questions: QuestionsById, folder: epath.Path, path: str
) -> list[epath.Path]:
    """Stores all available results and returns the merged files.

    Args:
      context: the run.
      model: the model.
      questions: the questions.
      folder: folder of the responses; requests are written to FOLDER/batch/requests-*.jsonl.
      path: pattern of the result files; "" for FOLDER/batch/results*.jsonl.

    Raises:
      MissingResultsError: if samples are missing, after writing their requests.
    """
    batch = folder / "batch"
    path = path or f"{batch}/results*.jsonl"
    writer = ResponseWriter(folder)
    done = writer.written_keys()
    files = _existing_files(path)
    ledger = ImportLedger([str(file) for file in files])
    new_rows = (row for row in _read_results(context, model, questions, files, ledger) if row.key not in done)
    while block := list(itertools.islice(new_rows, ROWS_PER_WRITE)):
        writer.write(block)
        for row in block:
            done.add(row.key)
    if files:
        context.log(f"  {ledger.summary()}")
        write_text(folder / "ledger.json", json.dumps(ledger.to_json(), indent=2, ensure_ascii=False) + "\n")
    keys = [(id_, index) for id_ in questions for index in range(model.sampling.n)]
    missing = [key for key in keys if key not in done]
    requests = write_requests(batch, (_request(model, questions, *key) for key in missing))
    if missing:
        raise MissingResultsError(
            f"{model.where}: {len(missing)} of {len(keys)} samples are missing; their requests are in "
            f"{', '.join(str(file) for file in requests)}. Send them to a batch interface (or: vllm run-batch -i FILE "
            f"-o RESULTS --model {model.name}), add the result files at {path}, and "
            "run the same command again"
        )
    return writer.merge(list(questions), 4)


def write_requests(folder: epath.Path, requests: Iterable[dict[str, Any]]) -> list[epath.Path]:
    """Writes FOLDER/requests-*.jsonl, as many files as the limits need, and removes other request files."""
    paths: list[epath.Path] = []
    lines: list[bytes] = []
    size = 0

    def close() -> None:
        paths.append(folder / f"requests-{len(paths):05d}.jsonl")
        with atomic_write(paths[-1]) as file:
            file.writelines(lines)
        lines.clear()

    for request in requests:
        line = json.dumps(request, ensure_ascii=False).encode() + b"\n"
        if lines and (len(lines) == MAX_REQUESTS or size + len(line) > MAX_BYTES):
            close()
            size = 0
        lines.append(line)
        size += len(line)
    if lines:
        close()
    for old in folder.glob("requests-*.jsonl") if folder.is_dir() else ():
        if old not in paths:
            old.unlink()
    return paths


def _request(model: RemoteModel, questions: QuestionsById, question_id: str, index: int) -> dict[str, Any]:
    body = model.request_body(*questions[question_id], index)
    url = f"/v1/{PATHS[model.server.kind]}"
    return {"custom_id": f"{question_id}#{index}", "method": "POST", "url": url, "body": body}


def _read_results(
    context: RunContext, model: RemoteModel, questions: QuestionsById, files: list[epath.Path], ledger: ImportLedger
) -> Iterator[Response]:
    """Yields every sample of the files once. Counts unusable rows in the ledger; their samples stay missing."""
    seen: set[tuple[str, int]] = set()
    unusable = 0
    for file in files:
        for generated in openai_batch(file, {}):
            ledger.count_read(str(file))
            try:
                row = _response(model, questions, generated, seen)
            except BadRowError as error:
                ledger.count_skipped(str(file), error.reason, generated.where)
                unusable += 1
                if unusable <= MAX_LOGGED_ROWS:
                    context.log(f"  {generated.where}: {error}")
                continue
            seen.add(row.key)
            ledger.count_imported(str(file), row)
            yield row


def _response(
    model: RemoteModel, questions: QuestionsById, generated: ImportedResponse | BadRow, seen: set[tuple[str, int]]
) -> Response:
    if isinstance(generated, BadRow):
        raise BadRowError(generated.reason, generated.detail)
    question_id, index = generated.question_id, generated.sample_index
    if question_id not in questions:
        raise BadRowError("no such question", f"{question_id!r} is not one of the set's questions")
    if index is None or index >= model.sampling.n:
        raise BadRowError("no such sample", f"{question_id!r}: sample {index} was not requested")
    if (question_id, index) in seen:
        raise BadRowError("duplicate", f"sample {index} of {question_id!r} is already in an earlier row")
    return model.respond(generated, *questions[question_id], index)


def _existing_files(path: str) -> list[epath.Path]:
    """The result files; none if there are no results yet."""
    try:
        return expand_paths(path, "path")
    except InputError:
        return []
