"""Batch files: requests are written for whoever runs them, and their results are read when they are back.

For OpenAI's batch interface and those that copy it, and for `vllm run-batch`. Every sample is a request of its own,
named QUESTION_ID#SAMPLE, so results may come in any order, in any number of files, and with gaps: what is missing, for
whatever reason, is asked for again and nothing else.
"""

import json
from collections.abc import Iterable, Iterator

from etils import epath

from scotd_jax.atomic import atomic_write
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import Run
from scotd_jax.jobs.generation.local import Asked
from scotd_jax.jobs.generation.servers.remote_model import Remote
from scotd_jax.jobs.generation.servers.requests import PATHS
from scotd_jax.rationales.importers.import_ledger import ImportLedger
from scotd_jax.rationales.importers.imported import BadRow, BadRowError, ImportedResponse
from scotd_jax.rationales.importers.openai import openai_batch
from scotd_jax.rationales.importers.row_readers import expand_paths
from scotd_jax.rationales.store import ResponseWriter
from scotd_jax.records import Response
from scotd_jax.workdir import write_text

LINES = 50_000  # of one file, and BYTES: what OpenAI takes at once, with a margin
BYTES = 180 * 10**6
BLOCK = 4096  # rows that are written at once
TOLD = 3  # refused rows that are told one by one


def ask_by_files(run: Run, remote: Remote, asked: Asked, folder: epath.Path, path: str) -> list[epath.Path]:
    """Reads the results at `path` ("": folder/batch/results*.jsonl) and returns the merged files.

    Raises InputError as long as samples are missing, with their requests in folder/batch/requests-*.jsonl.
    """
    batch = folder / "batch"
    path = path or f"{batch}/results*.jsonl"
    writer = ResponseWriter(folder)
    done = writer.written_keys()
    files = _there(path)
    ledger = ImportLedger([str(file) for file in files])
    block: list[Response] = []
    for row in _results(run, remote, asked, files, ledger):
        if row.key not in done:
            done.add(row.key)
            block.append(row)
        if len(block) == BLOCK:
            writer.write(block)
            block = []
    writer.write(block)
    if files:
        run.log(f"  {ledger.summary()}")
        write_text(folder / "ledger.json", json.dumps(ledger.to_json(), indent=2, ensure_ascii=False) + "\n")
    names = [(id_, index) for id_ in asked for index in range(remote.sampling.n)]
    missing = [name for name in names if name not in done]
    requests = write_requests(batch, (_request(remote, asked, *name) for name in missing))
    if missing:
        raise InputError(
            f"{remote.where}: {len(missing)} of {len(names)} samples are missing; their requests are in "
            f"{', '.join(str(file) for file in requests)}. Send them to a batch interface (or: vllm run-batch -i FILE "
            f"-o RESULTS --model {remote.server.model}), put the results at {path} besides those that are there, and "
            "give the same command again"
        )
    return writer.merge(list(asked), 4)


def write_requests(folder: epath.Path, requests: Iterable[dict]) -> list[epath.Path]:
    """FOLDER/requests-00000.jsonl, ...: as many files as are needed, in place of those of an earlier run."""
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
        if lines and (len(lines) == LINES or size + len(line) > BYTES):
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


def _request(remote: Remote, asked: Asked, question_id: str, index: int) -> dict:
    body = remote.body(*asked[question_id], index)
    url = f"/v1/{PATHS[remote.server.kind]}"
    return {"custom_id": f"{question_id}#{index}", "method": "POST", "url": url, "body": body}


def _results(
    run: Run, remote: Remote, asked: Asked, files: list[epath.Path], ledger: ImportLedger
) -> Iterator[Response]:
    """Every sample of the files once; what cannot be used is counted, and asked for again."""
    taken: set[tuple[str, int]] = set()
    refused = 0
    for file in files:
        for said in openai_batch(file, {}):
            ledger.count_read(str(file))
            try:
                row = _response(remote, asked, said, taken)
            except BadRowError as bad:
                ledger.count_skipped(str(file), bad.reason, said.where)
                refused += 1
                if refused <= TOLD:
                    run.log(f"  {said.where}: {bad}")
                continue
            taken.add(row.key)
            ledger.count_imported(str(file), row.question_id, row.answer, row.correct)
            yield row


def _response(remote: Remote, asked: Asked, said: ImportedResponse | BadRow, taken: set[tuple[str, int]]) -> Response:
    if isinstance(said, BadRow):
        raise BadRowError(said.reason, said.detail)
    if said.question_id not in asked:
        raise BadRowError("no such question", f"{said.question_id!r} is not one of the questions asked")
    if said.sample_index is None or said.sample_index >= remote.sampling.n:
        raise BadRowError("no such sample", f"{said.question_id!r}: sample {said.sample_index} was not asked for")
    if (said.question_id, said.sample_index) in taken:
        raise BadRowError("duplicate", f"sample {said.sample_index} of {said.question_id!r} came before")
    return remote.response(said, *asked[said.question_id], said.sample_index)


def _there(path: str) -> list[epath.Path]:
    try:
        return expand_paths(path, "path")
    except InputError:  # none yet
        return []
