"""A row per question with a list of what was said to it: vLLM's outputs, distilabel, open-r1.

Every generation is a response of its own. An empty one costs itself only, not the others of its row; rows of equal
prompts are never merged.
"""

from collections.abc import Iterator
from typing import Any

from etils import epath

from scotd_jax.rationales.importers.imported import Bad, BadRowError, Options, Row, Said, each
from scotd_jax.rationales.importers.openai import batch_result, last_of_user
from scotd_jax.rationales.importers.row_readers import records

_QUESTIONS = ("problem", "question", "prompt", "instruction")


def vllm(path: epath.Path, options: Options) -> Iterator[Said | Bad]:
    """RequestOutput dumps {"request_id", "prompt", "outputs": [{"index", "text", "token_ids", ..}], "finished"}.

    Lines of `vllm run-batch` are taken as well. request_id is the engine's own counter: the option "id" names a field
    that holds the question's id; else the prompt is compared.
    """
    return each(records(path), lambda row: _request(row, options))


def _request(row: Row, options: Options) -> Iterator[Said | Bad]:
    if row.has("custom_id"):
        yield from batch_result(row)
        return
    outputs = row.get("outputs", list)
    if not outputs:
        raise BadRowError("failed", "the request has no outputs")
    seen: set[int] = set()
    for place, output in enumerate(outputs):
        part = _part(row, place, output, len(outputs))
        try:
            index = part.may("index", int)
            if index is not None and index in seen:
                raise BadRowError("duplicate", f"the output of index {index} comes twice in one request")
            seen.add(place if index is None else index)
            logprob, tokens = part.may("cumulative_logprob", (int, float)), part.may("token_ids", list)
            yield part.said(
                part.get("text", str),
                question_id=_identity(row, options),
                question_text=row.may("prompt", str),
                # An output without a reason was not finished when it was dumped.
                finish_reason="stop" if part.may("finish_reason", str) == "stop" else "length",
                logprob=None if logprob is None else float(logprob),
                num_tokens=len(tokens) if tokens else None,
                model=row.may("model", str),
            )
        except BadRowError as bad:
            yield part.bad(bad.reason, bad.detail)


def distilabel(path: epath.Path, options: Options) -> Iterator[Said | Bad]:
    """Rows of {"instruction", "generation", "model_name", "distilabel_metadata"}, a generation or a list of them.

    The list may also be called "generations" or "merged_generation". Options: "question" and "id", names of columns.
    """
    return each(records(path), lambda row: _distilabel(row, options))


def _distilabel(row: Row, options: Options) -> Iterator[Said | Bad]:
    said = row.first(("generation", "generations", "merged_generation"), (str, list, type(None)))
    models = next((row.value[n] for n in ("model_name", "model_names", "merged_model_name") if row.has(n)), None)
    question = row.get(options.get("question", "instruction"), str)
    yield from _group(row, said if isinstance(said, list) else [said], question, options, models=models)


def open_r1(path: epath.Path, options: Options) -> Iterator[Said | Bad]:
    """Rows of a data set's own columns with "generations", "finish_reasons" and "correctness_*" lists.

    Options: "question", the column of the question (problem, question, prompt or instruction, whichever is there), and
    "id", the column of its id (uuid). What others found correct is not used: answers are compared anew.
    """
    return each(records(path), lambda row: _open_r1(row, options))


def _open_r1(row: Row, options: Options) -> Iterator[Said | Bad]:
    generations = row.get("generations", list)
    question = row.first([options["question"]] if "question" in options else _QUESTIONS, str)
    reasons = row.may("finish_reasons", list) or []
    for name in [n for n in row.value if n.startswith("correctness_") and isinstance(row.value[n], list)]:
        if len(row.value[name]) != len(generations):
            raise BadRowError(
                "wrong form", f"{name!r} holds {len(row.value[name])} values for {len(generations)} generations"
            )
    yield from _group(row, generations, question, options, reasons=reasons, gold=row.may("answer", str))


def _group(
    row: Row,
    generations: list[Any],
    question: str,
    options: Options,
    *,
    reasons: list[Any] | tuple = (),
    models: Any = None,
    gold: str | None = None,
) -> Iterator[Said | Bad]:
    if not generations:
        raise BadRowError("failed", "the row has no generations")
    if reasons and len(reasons) != len(generations):
        raise BadRowError("wrong form", f"{len(reasons)} finish reasons for {len(generations)} generations")
    for place, text in enumerate(generations):
        part = _part(row, place, text, len(generations))
        if isinstance(text, list):  # a conversation
            text = next((m.get("content") for m in reversed(text) if m.get("role") == "assistant"), None)
        if not isinstance(text, str):
            yield part.bad("failed", f"expected a text, found {text!r:.60}")
            continue
        model = models[place % len(models)] if isinstance(models, list) and models else models
        yield part.said(
            text,
            question_id=_identity(row, options),
            question_text=question,
            gold=gold,
            finish_reason="length" if reasons and reasons[place] not in (None, "stop") else "stop",
            model=model if isinstance(model, str) else None,
        )


def _part(row: Row, place: int, value: Any, count: int) -> Row:
    return Row(f"{row.where} generation {place}" if count > 1 else row.where, row.number, value)


def _identity(row: Row, options: Options) -> str | None:
    """The question's id: of the column that the option "id" names, which must then be there."""
    if "id" in options:
        return str(row.get(options["id"], (str, int)))
    return next((str(row.value[name]) for name in ("question_id", "uuid", "id") if row.has(name)), None)


def sharegpt(path: epath.Path, options: Options) -> Iterator[Said | Bad]:
    """Rows of {"conversations": [{"from": "human" or "gpt", "value"}]}: the last answer, to what was asked before."""
    return each(records(path), lambda row: _sharegpt(row, options))


_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def _sharegpt(row: Row, options: Options) -> Iterator[Said]:
    turns = []
    for turn in row.get("conversations", list):
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str) or turn.get("from") not in _ROLES:
            raise BadRowError("wrong form", f'expected turns {{"from": "human" or "gpt", "value"}}, found {turn!r:.80}')
        turns.append({"role": _ROLES[turn["from"]], "content": turn["value"]})
    yield _answered(row, turns, options)


def prompt_completion(path: epath.Path, options: Options) -> Iterator[Said | Bad]:
    """Rows of {"prompt", "completion"}, each a text or a list of messages, or of {"messages"}: TRL's forms."""
    return each(records(path), lambda row: _prompt_completion(row, options))


def _prompt_completion(row: Row, options: Options) -> Iterator[Said]:
    if row.has("messages"):
        yield _answered(row, row.get("messages", list), options)
        return
    prompt, completion = row.get("prompt", (str, list)), row.get("completion", (str, list))
    prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    completion = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    yield _answered(row, [*prompt, *completion], options)


def _answered(row: Row, turns: list[Any], options: Options) -> Said:
    if not turns or not isinstance(turns[-1], dict) or turns[-1].get("role") != "assistant":
        raise BadRowError("wrong form", "expected a conversation that ends with an answer")
    question, text = last_of_user(turns[:-1]), turns[-1].get("content")
    if question is None or not isinstance(text, str):
        raise BadRowError("missing field", "expected a question and an answer to it")
    return row.said(text, question_id=_identity(row, options), question_text=question, model=row.may("model", str))
