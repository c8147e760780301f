"""A row per question with a list of what was said to it: vLLM's outputs, distilabel, open-r1.

Every generation is a response of its own. An empty one costs itself only, not the others of its row; rows of equal
prompts are never merged.
"""

from collections.abc import Iterator
from typing import Any

from etils import epath

from scotd_jax.rationales.importers.imported import (
    BadRowError,
    ImportedResponse,
    ImportOptions,
    ImportResults,
    SourceRow,
    parse_rows,
)
from scotd_jax.rationales.importers.openai import batch_result, last_of_user
from scotd_jax.rationales.importers.row_readers import read_records

_QUESTIONS = ("problem", "question", "prompt", "instruction")


def vllm(path: epath.Path, options: ImportOptions) -> ImportResults:
    """RequestOutput dumps {"request_id", "prompt", "outputs": [{"index", "text", "token_ids", ..}], "finished"}.

    Lines of `vllm run-batch` are taken as well. request_id is the engine's own counter: the option "id" names a field
    that holds the question's id; else the prompt is compared.
    """
    return parse_rows(read_records(path), lambda row: _request(row, options))


def _request(row: SourceRow, options: ImportOptions) -> ImportResults:
    if row.has("custom_id"):
        yield from batch_result(row)
        return
    outputs = row.required("outputs", list)
    if not outputs:
        raise BadRowError("failed", "the request has no outputs")
    seen: set[int] = set()
    for place, output in enumerate(outputs):
        part = _part(row, place, output, len(outputs))
        try:
            index = part.optional("index", int)
            if index is not None and index in seen:
                raise BadRowError("duplicate", f"the output of index {index} comes twice in one request")
            seen.add(place if index is None else index)
            logprob, tokens = part.optional("cumulative_logprob", (int, float)), part.optional("token_ids", list)
            yield part.response(
                part.required("text", str),
                question_id=_identity(row, options),
                question_text=row.optional("prompt", str),
                # An output without a reason was not finished when it was dumped.
                finish_reason="stop" if part.optional("finish_reason", str) == "stop" else "length",
                logprob=None if logprob is None else float(logprob),
                num_tokens=len(tokens) if tokens else None,
                model=row.optional("model", str),
            )
        except BadRowError as bad:
            yield part.bad_row(bad.reason, bad.detail)


def distilabel(path: epath.Path, options: ImportOptions) -> ImportResults:
    """Rows of {"instruction", "generation", "model_name", "distilabel_metadata"}, a generation or a list of them.

    The list may also be called "generations" or "merged_generation". Options: "question" and "id", names of columns.
    """
    return parse_rows(read_records(path), lambda row: _distilabel(row, options))


def _distilabel(row: SourceRow, options: ImportOptions) -> ImportResults:
    said = row.first_of(("generation", "generations", "merged_generation"), (str, list, type(None)))
    models = next((row.value[n] for n in ("model_name", "model_names", "merged_model_name") if row.has(n)), None)
    question = row.required(options.get("question", "instruction"), str)
    yield from _group(row, said if isinstance(said, list) else [said], question, options, models=models)


def open_r1(path: epath.Path, options: ImportOptions) -> ImportResults:
    """Rows of a data set's own columns with "generations", "finish_reasons" and "correctness_*" lists.

    Options: "question", the column of the question (problem, question, prompt or instruction, whichever is there), and
    "id", the column of its id (uuid). What others found correct is not used: answers are compared anew.
    """
    return parse_rows(read_records(path), lambda row: _open_r1(row, options))


def _open_r1(row: SourceRow, options: ImportOptions) -> ImportResults:
    generations = row.required("generations", list)
    question = row.first_of([options["question"]] if "question" in options else _QUESTIONS, str)
    reasons = row.optional("finish_reasons", list) or []
    for name in [n for n in row.value if n.startswith("correctness_") and isinstance(row.value[n], list)]:
        if len(row.value[name]) != len(generations):
            raise BadRowError(
                "wrong form", f"{name!r} holds {len(row.value[name])} values for {len(generations)} generations"
            )
    yield from _group(row, generations, question, options, reasons=reasons, gold=row.optional("answer", str))


def _group(
    row: SourceRow,
    generations: list[Any],
    question: str,
    options: ImportOptions,
    *,
    reasons: list[Any] | tuple = (),
    models: Any = None,
    gold: str | None = None,
) -> ImportResults:
    if not generations:
        raise BadRowError("failed", "the row has no generations")
    if reasons and len(reasons) != len(generations):
        raise BadRowError("wrong form", f"{len(reasons)} finish reasons for {len(generations)} generations")
    for place, text in enumerate(generations):
        part = _part(row, place, text, len(generations))
        if isinstance(text, list):  # a conversation
            text = next((m.get("content") for m in reversed(text) if m.get("role") == "assistant"), None)
        if not isinstance(text, str):
            yield part.bad_row("failed", f"expected a text, found {text!r:.60}")
            continue
        model = models[place % len(models)] if isinstance(models, list) and models else models
        yield part.response(
            text,
            question_id=_identity(row, options),
            question_text=question,
            gold=gold,
            finish_reason="length" if reasons and reasons[place] not in (None, "stop") else "stop",
            model=model if isinstance(model, str) else None,
        )


def _part(row: SourceRow, place: int, value: Any, count: int) -> SourceRow:
    return SourceRow(f"{row.where} generation {place}" if count > 1 else row.where, row.number, value)


def _identity(row: SourceRow, options: ImportOptions) -> str | None:
    """The question's id: of the column that the option "id" names, which must then be there."""
    if "id" in options:
        return str(row.required(options["id"], (str, int)))
    return next((str(row.value[name]) for name in ("question_id", "uuid", "id") if row.has(name)), None)


def sharegpt(path: epath.Path, options: ImportOptions) -> ImportResults:
    """Rows of {"conversations": [{"from": "human" or "gpt", "value"}]}: the last answer, to what was asked before."""
    return parse_rows(read_records(path), lambda row: _sharegpt(row, options))


_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def _sharegpt(row: SourceRow, options: ImportOptions) -> Iterator[ImportedResponse]:
    turns = []
    for turn in row.required("conversations", list):
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str) or turn.get("from") not in _ROLES:
            raise BadRowError("wrong form", f'expected turns {{"from": "human" or "gpt", "value"}}, found {turn!r:.80}')
        turns.append({"role": _ROLES[turn["from"]], "content": turn["value"]})
    yield _answered(row, turns, options)


def prompt_completion(path: epath.Path, options: ImportOptions) -> ImportResults:
    """Rows of {"prompt", "completion"}, each a text or a list of messages, or of {"messages"}: TRL's forms."""
    return parse_rows(read_records(path), lambda row: _prompt_completion(row, options))


def _prompt_completion(row: SourceRow, options: ImportOptions) -> Iterator[ImportedResponse]:
    if row.has("messages"):
        yield _answered(row, row.required("messages", list), options)
        return
    prompt, completion = row.required("prompt", (str, list)), row.required("completion", (str, list))
    prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    completion = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    yield _answered(row, [*prompt, *completion], options)


def _answered(row: SourceRow, turns: list[Any], options: ImportOptions) -> ImportedResponse:
    if not turns or not isinstance(turns[-1], dict) or turns[-1].get("role") != "assistant":
        raise BadRowError("wrong form", "expected a conversation that ends with an answer")
    question, text = last_of_user(turns[:-1]), turns[-1].get("content")
    if question is None or not isinstance(text, str):
        raise BadRowError("missing field", "expected a question and an answer to it")
    return row.response(
        text, question_id=_identity(row, options), question_text=question, model=row.optional("model", str)
    )
