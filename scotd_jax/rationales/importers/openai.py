"""Importers of output of the OpenAI API and of compatible servers: batch results, chat and completions bodies.

Each of the n choices of a body is one response; a bad choice does not affect the others.
"""

import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from scotd_jax.rationales.importers.imported import (
    BadRowError,
    ImportOptions,
    ImportResults,
    SourceRow,
    parse_rows,
)
from scotd_jax.rationales.importers.row_readers import read_json_lines, read_records

_COMPLETE = (None, "stop", "eos", "end_turn", "stop_sequence")  # finish reasons of responses that are not truncated


def openai_batch(path: epath.Path, options: ImportOptions) -> ImportResults:
    """Batch results of the OpenAI API and of servers that copy it.

    Source: OpenAI's batch API, or `vllm run-batch`.
    File: JSON lines {"id", "custom_id", "response": {"body"}, "error"}; custom_id is the question's id, optionally
      followed by "#i", where i is the index of the request among those of its question.
    Answer: parsed by the task's prompt format.
    """
    del options
    return parse_rows(read_json_lines(path), batch_result)


def openai_responses(path: epath.Path, options: ImportOptions) -> ImportResults:
    """Bodies of chat/completions and completions.

    Source: saved replies of the OpenAI API or of a compatible server.
    File: JSON lines or a JSON list. Each record is a body, or {"request", "response"} with the prompt in the request.
      The question is found by the prompt, or by the metadata {"question_id": ..} of the request; otherwise the option
      "ids" is needed.
    Answer: parsed by the task's prompt format.
    """
    del options
    return parse_rows(read_records(path), _parse_body)


def batch_result(row: SourceRow) -> ImportResults:
    """Yields the responses of one line of batch results."""
    custom_id = row.required("custom_id", str)
    if row.has("error"):
        raise BadRowError("failed", f"the request {custom_id!r} failed: {row.required('error')!r:.200}")
    response = row.nested("response")
    status = response.optional("status_code", int)
    if status is not None and status != 200:
        raise BadRowError("failed", f"the request {custom_id!r} has the status {status}; expected 200")
    # Some writers put the body in place of the response.
    body = response.nested("body") if response.has("body") else response
    question_id, _, number = custom_id.rpartition("#")
    if not question_id or not re.fullmatch("[0-9]{1,9}", number):
        question_id, number = custom_id, ""
    yield from parse_choices(body, question_id, int(number) if number else None, row.optional("id", str))


def parse_choices(
    body: SourceRow, question_id: str | None, number: int | None, unique: str | None, question: str | None = None
) -> ImportResults:
    """Yields the responses in one body.

    Args:
      body: body of chat/completions or completions.
      question_id: id of the question.
      number: index of the request among those of its question, None if unknown. Request k with n choices holds the
        samples k * n to k * n + n - 1.
      unique: id of the reply.
      question: the question or its prompt.

    Raises:
      BadRowError: if the body has no choices.
    """
    choices = body.required("choices", list)
    if not choices:
        raise BadRowError("failed", "the response has no choices")
    usage, model = body.optional("usage", dict) or {}, body.optional("model", str)
    for i, value in enumerate(choices):
        choice = SourceRow(f"{body.where} choice {i}" if len(choices) > 1 else body.where, body.number, value)
        try:
            text = _text(choice)
            logprobs = _logprobs(choice.value.get("logprobs"))
            finish_reason = choice.optional("finish_reason", str)
        except BadRowError as error:
            yield choice.bad_row(error.reason, error.detail)
            continue
        num_tokens = usage.get("completion_tokens") if len(choices) == 1 else None
        if logprobs:
            num_tokens = len(logprobs)
        yield choice.response(
            text,
            question_id=question_id,
            question_text=question,
            sample_index=None if number is None else number * len(choices) + i,
            finish_reason="stop" if finish_reason in _COMPLETE else "length",
            logprob=sum(logprobs) if logprobs else None,
            num_tokens=num_tokens if isinstance(num_tokens, int) else None,
            model=model,
            unique=None if unique is None else f"{unique} choice {i}",
        )


def last_user_message(messages: list[Any]) -> str | None:
    """Returns the text of the last user message of a conversation, or None."""
    contents = [m["content"] for m in messages if isinstance(m, Mapping) and m.get("role") == "user" and "content" in m]
    return contents[-1] if contents and isinstance(contents[-1], str) else None


def _parse_body(row: SourceRow) -> ImportResults:
    body = row.nested("response") if row.has("response") else row
    question_id = body.nested("metadata").optional("question_id", str) if body.has("metadata") else None
    question = _prompt(row.nested("request")) if row.has("request") else None
    yield from parse_choices(body, question_id, None, body.optional("id", str), question)


def _text(choice: SourceRow) -> str:
    """The text of a chat message or a completion; reasoning that the server split off becomes a <think> block again."""
    if not choice.has("message"):
        return choice.required("text", str)
    message = choice.nested("message")
    reasoning = message.optional("reasoning_content", str) or message.optional("reasoning", str)
    content = message.optional("content", str)
    if content is None and not reasoning:
        raise BadRowError("failed", f"the message has no content (finish_reason {choice.value.get('finish_reason')!r})")
    return f"<think>{reasoning}</think>{content or ''}" if reasoning else content


def _logprobs(value: Any) -> list[float] | None:
    """Log-probabilities of chat ({"content": [{"logprob"}]}) or of completions ({"token_logprobs": [..]})."""
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("content"), list):
        logprobs = [token.get("logprob") for token in value["content"] if isinstance(token, Mapping)]
    else:
        logprobs = value.get("token_logprobs")
    if not isinstance(logprobs, list):
        return None
    numbers = [float(logprob) for logprob in logprobs if isinstance(logprob, (int, float))]
    return numbers if numbers and len(numbers) == len(logprobs) else None


def _prompt(request: SourceRow) -> str | None:
    """The prompt of a request: its text, or its last user message."""
    request = request.nested("body") if request.has("body") else request
    if request.has("prompt"):
        return request.required("prompt", str)
    return last_user_message(request.required("messages", list))
