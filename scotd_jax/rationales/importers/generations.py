"""Importers of lists of generations per question (vLLM, distilabel, Open R1) and of conversations (ShareGPT, TRL).

Each generation is one response. A bad one does not affect the others in its row. Rows with equal prompts are not
merged.
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
from scotd_jax.rationales.importers.openai import batch_result, last_user_message
from scotd_jax.rationales.importers.row_readers import read_records

_QUESTION_COLUMNS = ("problem", "question", "prompt", "instruction")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def vllm(path: epath.Path, options: ImportOptions) -> ImportResults:
    """Dumps of vLLM's RequestOutput, and results of `vllm run-batch`.

    Source: `vllm.LLM.generate`.
    File: rows {"request_id", "prompt", "outputs": [{"index", "text", "token_ids", ..}], "finished"}. The request_id is
      the engine's own counter, so the question is found by its prompt.
    Answer: parsed by the task's prompt format.
    Options: "id", a field with the question's id.
    """
    return parse_rows(read_records(path), lambda row: _parse_request(row, options))


def distilabel(path: epath.Path, options: ImportOptions) -> ImportResults:
    """Data sets of distilabel.

    Source: distilabel's text generation tasks.
    File: rows {"instruction", "generation", "model_name", "distilabel_metadata"}, with one generation or a list of
      them; the field may also be called "generations" or "merged_generation".
    Answer: parsed by the task's prompt format.
    Options: "question" and "id", names of columns.
    """
    return parse_rows(read_records(path), lambda row: _parse_distilabel(row, options))


def open_r1(path: epath.Path, options: ImportOptions) -> ImportResults:
    """Data sets in the form of Open R1 (OpenR1-Math-220k).

    Source: open-r1 on the Hugging Face Hub.
    File: rows with a question column, "generations", and optionally "finish_reasons" and "correctness_*" lists.
    Answer: parsed by the task's prompt format; the correctness lists are not used.
    Options: "question", the column of the question (by default the first of problem, question, prompt, instruction
      that exists), and "id", the column of its id (by default uuid).
    """
    return parse_rows(read_records(path), lambda row: _parse_open_r1(row, options))


def sharegpt(path: epath.Path, options: ImportOptions) -> ImportResults:
    """Conversations in the form of ShareGPT.

    Source: ShareGPT, and the many data sets in its form.
    File: rows {"conversations": [{"from": "human" or "gpt", "value"}]}; the response is the last turn, the question
      the last user turn before it.
    Answer: parsed by the task's prompt format.
    Options: "id", a field with the question's id.
    """
    return parse_rows(read_records(path), lambda row: _parse_sharegpt(row, options))


def prompt_completion(path: epath.Path, options: ImportOptions) -> ImportResults:
    """Pairs of prompt and completion, or conversations, in the forms of TRL.

    Source: data sets for TRL's SFTTrainer.
    File: rows {"prompt", "completion"}, each a text or a list of messages, or rows {"messages"}.
    Answer: parsed by the task's prompt format.
    Options: "id", a field with the question's id.
    """
    return parse_rows(read_records(path), lambda row: _parse_prompt_completion(row, options))


def _parse_request(row: SourceRow, options: ImportOptions) -> ImportResults:
    if row.has("custom_id"):
        yield from batch_result(row)
        return
    outputs = row.required("outputs", list)
    if not outputs:
        raise BadRowError("failed", "the request has no outputs")
    seen: set[int] = set()
    for i, output in enumerate(outputs):
        generation = _generation(row, i, output, len(outputs))
        try:
            index = generation.optional("index", int)
            if index is not None and index in seen:
                raise BadRowError("duplicate", f"the output of index {index} comes twice in one request")
            seen.add(i if index is None else index)
            yield _parse_output(row, generation, options)
        except BadRowError as error:
            yield generation.bad_row(error.reason, error.detail)


def _parse_output(row: SourceRow, output: SourceRow, options: ImportOptions) -> ImportedResponse:
    logprob, tokens = output.optional("cumulative_logprob", (int, float)), output.optional("token_ids", list)
    return output.response(
        output.required("text", str),
        question_id=_question_id(row, options),
        question_text=row.optional("prompt", str),
        # An output without a finish reason was not complete when it was dumped.
        finish_reason="stop" if output.optional("finish_reason", str) == "stop" else "length",
        logprob=None if logprob is None else float(logprob),
        num_tokens=len(tokens) if tokens else None,
        model=row.optional("model", str),
    )


def _parse_distilabel(row: SourceRow, options: ImportOptions) -> ImportResults:
    generations = row.first_of(("generation", "generations", "merged_generation"), (str, list, type(None)))
    if not isinstance(generations, list):
        generations = [generations]
    models = next((row.value[n] for n in ("model_name", "model_names", "merged_model_name") if row.has(n)), None)
    question = row.required(options.get("question", "instruction"), str)
    yield from _parse_generations(row, generations, question, options, models=models)


def _parse_open_r1(row: SourceRow, options: ImportOptions) -> ImportResults:
    generations = row.required("generations", list)
    question = row.first_of([options["question"]] if "question" in options else _QUESTION_COLUMNS, str)
    finish_reasons = row.optional("finish_reasons", list) or []
    for name in [n for n in row.value if n.startswith("correctness_") and isinstance(row.value[n], list)]:
        if len(row.value[name]) != len(generations):
            raise BadRowError(
                "wrong form", f"{name!r} holds {len(row.value[name])} values for {len(generations)} generations"
            )
    gold = row.optional("answer", str)
    yield from _parse_generations(row, generations, question, options, finish_reasons=finish_reasons, gold=gold)


def _parse_generations(
    row: SourceRow,
    generations: list[Any],
    question: str,
    options: ImportOptions,
    *,
    finish_reasons: list[Any] | tuple = (),
    models: Any = None,
    gold: str | None = None,
) -> ImportResults:
    """Yields one response per generation; `models` is one name or a list of names."""
    if not generations:
        raise BadRowError("failed", "the row has no generations")
    if finish_reasons and len(finish_reasons) != len(generations):
        raise BadRowError("wrong form", f"{len(finish_reasons)} finish reasons for {len(generations)} generations")
    for i, text in enumerate(generations):
        generation = _generation(row, i, text, len(generations))
        if isinstance(text, list):  # a conversation
            turns = (turn for turn in reversed(text) if isinstance(turn, dict))
            text = next((turn.get("content") for turn in turns if turn.get("role") == "assistant"), text)
        if not isinstance(text, str):
            yield generation.bad_row("failed", f"expected a text or a conversation with an answer, found {text!r:.60}")
            continue
        model = models[i % len(models)] if isinstance(models, list) and models else models
        yield generation.response(
            text,
            question_id=_question_id(row, options),
            question_text=question,
            gold=gold,
            finish_reason="length" if finish_reasons and finish_reasons[i] not in (None, "stop") else "stop",
            model=model if isinstance(model, str) else None,
        )


def _parse_sharegpt(row: SourceRow, options: ImportOptions) -> Iterator[ImportedResponse]:
    turns = []
    for turn in row.required("conversations", list):
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str) or turn.get("from") not in _ROLES:
            raise BadRowError("wrong form", f'expected turns {{"from": "human" or "gpt", "value"}}, found {turn!r:.80}')
        turns.append({"role": _ROLES[turn["from"]], "content": turn["value"]})
    yield _parse_conversation(row, turns, options)


def _parse_prompt_completion(row: SourceRow, options: ImportOptions) -> Iterator[ImportedResponse]:
    if row.has("messages"):
        yield _parse_conversation(row, row.required("messages", list), options)
        return
    prompt, completion = row.required("prompt", (str, list)), row.required("completion", (str, list))
    prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    completion = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    yield _parse_conversation(row, [*prompt, *completion], options)


def _parse_conversation(row: SourceRow, turns: list[Any], options: ImportOptions) -> ImportedResponse:
    """The last assistant turn as a response to the last user turn before it."""
    if not turns or not isinstance(turns[-1], dict) or turns[-1].get("role") != "assistant":
        raise BadRowError("wrong form", "expected a conversation that ends with an answer")
    question, text = last_user_message(turns[:-1]), turns[-1].get("content")
    if question is None or not isinstance(text, str):
        raise BadRowError("missing field", "expected a question and an answer to it")
    model = row.optional("model", str)
    return row.response(text, question_id=_question_id(row, options), question_text=question, model=model)


def _generation(row: SourceRow, index: int, value: Any, count: int) -> SourceRow:
    """Returns one of the `count` generations of a row as a separate row."""
    return SourceRow(f"{row.where} generation {index}" if count > 1 else row.where, row.number, value)


def _question_id(row: SourceRow, options: ImportOptions) -> str | None:
    """The question's id, from the column set by the option "id", or else from the first usual column that exists."""
    if "id" in options:
        return str(row.required(options["id"], (str, int)))
    return next((str(row.value[name]) for name in ("question_id", "uuid", "id") if row.has(name)), None)
