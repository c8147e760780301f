"""Readers of prediction files: response records, samples of lm-eval, and plain rows of id and text or answer."""

from collections.abc import Iterator
from typing import Any

from etils import epath

from scotd_jax.errors import InputError, list_names
from scotd_jax.rationales.importers.imported import BadRow, BadRowError, ImportedResponse, SourceRow
from scotd_jax.rationales.importers.row_readers import read_records

_IDS = ("question_id", "id", "qid", "uuid")
_TEXTS = ("text", "response", "completion", "prediction", "output", "generated_text")
_QUESTIONS = ("question", "question_stem", "query", "problem")


def read_predictions(path: epath.Path, lm_eval_filter: str | None = None) -> Iterator[ImportedResponse]:
    """Yields the predictions of a file in its order.

    A row of lm-eval with several responses is several predictions. For its multiple-choice tasks, the answer is the
    continuation with the largest log-likelihood, as in its metric `acc`.

    Args:
      path: JSON lines (gzipped or not), a JSON list, or Parquet.
      lm_eval_filter: name of lm-eval's filter, needed if the file has the results of several.

    Raises:
      InputError: if a row cannot be read, or has no id and no question.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected predictions, one per line")
    found: set[str] = set()
    for row in read_records(path):
        if isinstance(row, BadRow):
            raise InputError(f"{row.where}: {row.detail}")
        try:
            if not (row.has("doc_id") and row.has("filtered_resps")):
                yield _plain(row)
                continue
            name = str(row.optional("filter") or "none")
            found.add(name)
            if lm_eval_filter in (None, name):
                yield from _lm_eval(row)
        except BadRowError as error:
            raise InputError(f"{row.where}: {error}") from None
    if lm_eval_filter is None and len(found) > 1:
        raise InputError(f"{path}: has the results of {len(found)} filters; choose one: --filter={min(found)}")
    if lm_eval_filter is not None and lm_eval_filter not in found:
        raise InputError(f"--filter={lm_eval_filter}: no row of {path} has this filter; there are {list_names(found)}")


def _plain(row: SourceRow) -> ImportedResponse:
    """A response record, or a row with an id or a question, and a text or an answer."""
    answer, text = row.optional("answer", (str, int, float)), _first(row, _TEXTS)
    if answer is None and text is None and not (isinstance(row.value, dict) and "answer" in row.value):
        names = list_names((*_TEXTS, "answer"))
        raise BadRowError("missing field", f"expected one of the fields {names}; found {list_names(row.value or ())}")
    return row.response(
        None if text is None else str(text),
        **_question(row),
        sample_index=row.optional("sample_index", int),
        # A record's answer was parsed when it was generated; null means that it could not be parsed.
        parsed=isinstance(row.value, dict) and "answer" in row.value,
        answer=None if answer is None else str(answer),
        rationale=row.optional("rationale", str),
        finish_reason=row.optional("finish_reason", str) or "stop",
        num_tokens=row.optional("num_tokens", int),
    )


def _lm_eval(row: SourceRow) -> Iterator[ImportedResponse]:
    question = _question(row.nested("doc"))
    responses = row.required("filtered_resps", list)
    continuations = [_argument(arguments, 1) for arguments in _arguments(row)]
    scores = [_log_likelihood(response) for response in responses]
    if scores and None not in scores:
        best = max(range(len(scores)), key=lambda i: scores[i] or 0.0)
        yield row.response(None, **question, parsed=True, answer=str(continuations[best]).strip())
        return
    for texts in responses:
        for text in texts if isinstance(texts, list) else [texts]:
            yield row.response(str(text), **question)


def _arguments(row: SourceRow) -> list[Any]:
    """The arguments of every request of a sample: a list, or an object with the keys gen_args_0, gen_args_1, ..."""
    arguments = row.required("arguments", (list, dict))
    return list(arguments.values()) if isinstance(arguments, dict) else arguments


def _argument(arguments: Any, index: int) -> Any:
    values = list(arguments.values()) if isinstance(arguments, dict) else arguments
    return values[index] if isinstance(values, list) and len(values) > index else None


def _log_likelihood(response: Any) -> float | None:
    """The log-likelihood of a response (log-likelihood, whether it is the greedy one); None for a text."""
    if isinstance(response, list) and len(response) == 2 and str(response[1]) in ("True", "False"):
        try:
            return float(response[0])
        except ValueError:
            return None
    return None


def _question(row: SourceRow) -> dict[str, str | None]:
    """The id and the text of a row's question; at least one of them must exist."""
    id_, text = _first(row, _IDS), _first(row, _QUESTIONS)
    if id_ is None and not isinstance(text, str):
        names = list_names((*_IDS, *_QUESTIONS))
        raise BadRowError(
            "missing field",
            f"names no question: expected one of the fields {names}; rows are never joined by their order alone",
        )
    return {"question_id": None if id_ is None else str(id_), "question_text": text if isinstance(text, str) else None}


def _first(row: SourceRow, names: tuple[str, ...]) -> Any:
    return next((row.value[name] for name in names if row.has(name)), None)
