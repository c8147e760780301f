"""Importer of this package's own responses."""

from collections.abc import Iterator

from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.rationales.importers.imported import (
    BadRowError,
    ImportedResponse,
    ImportOptions,
    ImportResults,
    SourceRow,
    parse_rows,
)
from scotd_jax.rationales.importers.row_readers import read_json_lines
from scotd_jax.records import Response, from_mapping


def responses(path: epath.Path, options: ImportOptions) -> ImportResults:
    """Responses of the sample job, from this work directory or another one.

    Source: the sample job, rationales/NAME/responses-*.jsonl.
    File: JSON lines with the fields of `Response`; sample index, model and log-probability are kept.
    Answer: parsed by the task's prompt format, or else taken from the row, where another rule has parsed it.
    """
    del options
    return parse_rows(read_json_lines(path), _parse)


def _parse(row: SourceRow) -> Iterator[ImportedResponse]:
    if not isinstance(row.value, dict):
        raise BadRowError("wrong form", f"expected a JSON object with the fields of Response, found {row.value!r:.60}")
    try:
        response = from_mapping(Response, row.value, row.where)
    except InputError as error:
        detail = str(error).removeprefix(f"{row.where}: ")
        raise BadRowError("missing field" if "is missing" in detail else "wrong form", detail) from None
    yield row.response(
        response.text,
        question_id=response.question_id,
        sample_index=response.sample_index,
        rationale=response.rationale,
        answer=response.answer,
        finish_reason=response.finish_reason,
        logprob=response.logprob,
        num_tokens=response.num_tokens,
        model=response.model,
        sampling=response.sampling,
    )
