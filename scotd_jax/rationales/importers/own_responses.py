"""Our own responses: JSON lines as the sample job writes them, from this work directory or another one."""

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
    """Rows keep their sample index, speaker and log-probability. Their answers are read and compared anew.

    An answer that the task's format cannot find in the text (it was imported by another rule) is taken from the row.
    """
    del options
    return parse_rows(read_json_lines(path), _response)


def _response(row: SourceRow) -> Iterator[ImportedResponse]:
    if not isinstance(row.value, dict):
        raise BadRowError("wrong form", f"expected a JSON object with the fields of Response, found {row.value!r:.60}")
    try:
        said = from_mapping(Response, row.value, row.where)
    except InputError as error:
        detail = str(error).removeprefix(f"{row.where}: ")
        raise BadRowError("missing field" if "is missing" in detail else "wrong form", detail) from None
    yield row.response(
        said.text,
        question_id=said.question_id,
        sample_index=said.sample_index,
        rationale=said.rationale,
        answer=said.answer,
        finish_reason=said.finish_reason,
        logprob=said.logprob,
        num_tokens=said.num_tokens,
        model=said.model,
        sampling=said.sampling,
    )
