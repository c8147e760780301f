"""Readers of prediction files: response records, samples of lm-eval, and plain rows of id and text or answer."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from scotd_jax.errors import InputError, list_names
from scotd_jax.rationales.importers.imported import BadRow, BadRowError, ImportedResponse, SourceRow
from scotd_jax.rationales.importers.row_readers import read_records
from scotd_jax.reporting.lm_eval_files import INVALID

_IDS = ("question_id", "id", "qid", "uuid")
_TEXTS = ("text", "response", "completion", "prediction", "output", "generated_text")
_QUESTIONS = ("question", "question_stem", "query", "problem")


def read_predictions(path: epath.Path, lm_eval_filter: str | None = None) -> Iterator[ImportedResponse]:
    """Yields the predictions of a file in its order.

    A row of lm-eval with several responses is several predictions, of which "[invalid]" is one without an answer. For
    its multiple-choice tasks, the answer is the continuation with the largest log-likelihood, as in its metric `acc`.

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
    has_answer = isinstance(row.value, dict) and "answer" in row.value
    if text is None and not has_answer:
        names = list_names((*_TEXTS, "answer"))
        found = list_names(row.value) if isinstance(row.value, dict) else f"{row.value!r:.60}"
        raise BadRowError("missing field", f"expected one of the fields {names}; found {found}")
    return row.response(
        None if text is None else str(text),
        **_question(row),
        sample_index=row.optional("sample_index", int),
        # A record's answer was parsed when it was generated; null means that it could not be parsed.
        parsed=has_answer,
        answer=None if answer is None else str(answer),
        rationale=row.optional("rationale", str),
        finish_reason=row.optional("finish_reason", str) or "stop",
        num_tokens=row.optional("num_tokens", int),
    )


def _lm_eval(row: SourceRow) -> Iterator[ImportedResponse]:
    question = _question(row.nested("doc"))
    responses = row.required("filtered_resps", list)
    scores = [score for response in responses if (score := _log_likelihood(response)) is not None]
    if responses and len(scores) == len(responses):
        yield row.response(None, **question, parsed=True, answer=_most_likely(_continuations(row), scores))
        return
    for texts in responses:
        for text in texts if isinstance(texts, list) else [texts]:
            yield row.response(str(text), **question, parsed=text == INVALID)


def _most_likely(continuations: Sequence[Any], scores: Sequence[float]) -> str:
    """The continuation with the largest log-likelihood."""
    if len(continuations) != len(scores) or not all(isinstance(text, str) for text in continuations):
        raise BadRowError(
            "wrong form", f"expected {len(scores)} arguments, each of a context and a continuation, one per likelihood"
        )
    if any(map(math.isnan, scores)):
        raise BadRowError("wrong form", "a log-likelihood is not a number, so no answer is the most likely one")
    return continuations[scores.index(max(scores))].strip()


def _continuations(row: SourceRow) -> list[Any]:
    """The second argument of every request of a sample; None for a request without one.

    Requests and arguments are lists, or objects with the keys gen_args_0, gen_args_1, ... and arg_0, arg_1, ...
    """
    requests = (_values(request) for request in _values(row.required("arguments", (list, dict))))
    return [arguments[1] if len(arguments) > 1 else None for arguments in requests]


def _values(items: Any) -> list[Any]:
    return list(items.values()) if isinstance(items, dict) else items if isinstance(items, list) else []


def _log_likelihood(response: Any) -> float | None:
    """The log-likelihood of a response (log-likelihood, whether it is the greedy one); None for a text."""
    if isinstance(response, list) and len(response) == 2 and str(response[1]) in ("True", "False"):
        try:
            return float(response[0])
        except (TypeError, ValueError):
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
