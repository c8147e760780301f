"""Files of OpenAI's interfaces and of servers that speak them: batch results, chat and completions bodies.

Every choice of a body is a response of its own: n > 1 loses nothing. One that failed costs itself only.
"""

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

_ENDED = (None, "stop", "eos", "end_turn", "stop_sequence")


def openai_batch(path: epath.Path, options: ImportOptions) -> ImportResults:
    """Batch results (also of `vllm run-batch`): lines of {"id", "custom_id", "response": {"body"}, "error"}.

    custom_id is the question's id, and may end in "#i": then i is the sample's number.
    """
    del options
    return parse_rows(read_json_lines(path), batch_result)


def openai_responses(path: epath.Path, options: ImportOptions) -> ImportResults:
    """Bodies of chat/completions and completions, one per line or in a list.

    They do not name their question, unless the request had metadata {"question_id": ..}, which is sent back; else the
    option "ids" is needed. Where the request was kept beside the body, {"request", "response"}, its prompt is used.
    """
    del options
    return parse_rows(read_records(path), _body)


def batch_result(row: SourceRow) -> ImportResults:
    identity = row.required("custom_id", str)
    if row.has("error"):
        raise BadRowError("failed", f"the request {identity!r} failed: {row.required('error')!r:.200}")
    response = row.nested("response")
    status = response.optional("status_code", int)
    if status is not None and status != 200:
        raise BadRowError("failed", f"the request {identity!r} has the status {status}; expected 200")
    # Some writers put the body in place of the response.
    body = response.nested("body") if response.has("body") else response
    question_id, _, number = identity.rpartition("#")
    if not question_id or not number.isdigit():
        question_id, number = identity, ""
    yield from parse_choices(body, question_id, int(number) if number else None, row.optional("id", str))


def _body(row: SourceRow) -> ImportResults:
    body = row.nested("response") if row.has("response") else row
    metadata = body.optional("metadata", dict) or {}
    question = _asked(row.nested("request")) if row.has("request") else None
    yield from parse_choices(body, metadata.get("question_id"), None, body.optional("id", str), question)


def parse_choices(
    body: SourceRow, question_id: str | None, number: int | None, unique: str | None, question: str | None = None
) -> ImportResults:
    """The responses in one body. Request `number` of n choices holds the samples number * n, number * n + 1, ..."""
    found = body.required("choices", list)
    if not found:
        raise BadRowError("failed", "the response has no choices")
    whole = body.optional("usage", dict) or {}
    for place, choice in enumerate(found):
        part = SourceRow(f"{body.where} choice {place}" if len(found) > 1 else body.where, body.number, choice)
        try:
            text = _text(part)
            logprobs = _logprobs(part.value.get("logprobs"))
        except BadRowError as bad:
            yield part.bad_row(bad.reason, bad.detail)
            continue
        tokens = len(logprobs) if logprobs else whole.get("completion_tokens") if len(found) == 1 else None
        yield part.response(
            text,
            question_id=question_id,
            question_text=question,
            sample_index=None if number is None else number * len(found) + place,
            finish_reason="stop" if part.optional("finish_reason", str) in _ENDED else "length",
            logprob=sum(logprobs) if logprobs else None,
            num_tokens=tokens if isinstance(tokens, int) else None,
            model=body.optional("model", str),
            unique=None if unique is None else f"{unique} choice {place}",
        )


def _text(choice: SourceRow) -> str:
    """Of a chat message or a completion. Thoughts that the server took out of a message are put back as a block."""
    if not choice.has("message"):
        return choice.required("text", str)
    message = choice.nested("message")
    thoughts = message.optional("reasoning_content", str) or message.optional("reasoning", str)
    content = message.optional("content", str)
    if content is None and not thoughts:
        raise BadRowError("failed", f"the message has no content (finish_reason {choice.value.get('finish_reason')!r})")
    return f"<think>{thoughts}</think>{content or ''}" if thoughts else content


def _logprobs(value: Any) -> list[float] | None:
    """Of chat ({"content": [{"logprob"}]}) and of completions ({"token_logprobs": [..]})."""
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("content"), list):
        found = [token.get("logprob") for token in value["content"] if isinstance(token, Mapping)]
    else:
        found = value.get("token_logprobs")
    known = bool(found) and all(isinstance(p, (int, float)) for p in found)
    return [float(p) for p in found] if known else None


def _asked(request: SourceRow) -> str | None:
    """The prompt of a request: its text, or its last message of the user."""
    request = request.nested("body") if request.has("body") else request
    if request.has("prompt"):
        return request.required("prompt", str)
    return last_of_user(request.required("messages", list))


def last_of_user(messages: list[Any]) -> str | None:
    said = [m["content"] for m in messages if isinstance(m, Mapping) and m.get("role") == "user" and "content" in m]
    return said[-1] if said and isinstance(said[-1], str) else None
