"""Files of OpenAI's interfaces and of servers that speak them: batch results, chat and completions bodies.

Every choice of a body is a response of its own: n > 1 loses nothing. One that failed costs itself only.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from scotd_jax.rationales.importers.imported import Bad, BadRowError, Options, Row, Said, each
from scotd_jax.rationales.importers.row_readers import lines, records

_ENDED = (None, "stop", "eos", "end_turn", "stop_sequence")


def openai_batch(path: epath.Path, options: Options) -> Iterator[Said | Bad]:
    """Batch results (also of `vllm run-batch`): lines of {"id", "custom_id", "response": {"body"}, "error"}.

    custom_id is the question's id, and may end in "#i": then i is the sample's number.
    """
    del options
    return each(lines(path), batch_result)


def openai_responses(path: epath.Path, options: Options) -> Iterator[Said | Bad]:
    """Bodies of chat/completions and completions, one per line or in a list.

    They do not name their question, unless the request had metadata {"question_id": ..}, which is sent back; else the
    option "ids" is needed. Where the request was kept beside the body, {"request", "response"}, its prompt is used.
    """
    del options
    return each(records(path), _body)


def batch_result(row: Row) -> Iterator[Said | Bad]:
    identity = row.get("custom_id", str)
    if row.has("error"):
        raise BadRowError("failed", f"the request {identity!r} failed: {row.get('error')!r:.200}")
    response = row.at("response")
    status = response.may("status_code", int)
    if status is not None and status != 200:
        raise BadRowError("failed", f"the request {identity!r} has the status {status}; expected 200")
    # Some writers put the body in place of the response.
    body = response.at("body") if response.has("body") else response
    question_id, _, number = identity.rpartition("#")
    if not question_id or not number.isdigit():
        question_id, number = identity, ""
    yield from choices(body, question_id, int(number) if number else None, row.may("id", str))


def _body(row: Row) -> Iterator[Said | Bad]:
    body = row.at("response") if row.has("response") else row
    metadata = body.may("metadata", dict) or {}
    question = _asked(row.at("request")) if row.has("request") else None
    yield from choices(body, metadata.get("question_id"), None, body.may("id", str), question)


def choices(
    body: Row, question_id: str | None, number: int | None, unique: str | None, question: str | None = None
) -> Iterator[Said | Bad]:
    """The responses in one body. Request `number` of n choices holds the samples number * n, number * n + 1, ..."""
    found = body.get("choices", list)
    if not found:
        raise BadRowError("failed", "the response has no choices")
    whole = body.may("usage", dict) or {}
    for place, choice in enumerate(found):
        part = Row(f"{body.where} choice {place}" if len(found) > 1 else body.where, body.number, choice)
        try:
            text = _text(part)
            logprobs = _logprobs(part.value.get("logprobs"))
        except BadRowError as bad:
            yield part.bad(bad.reason, bad.detail)
            continue
        tokens = len(logprobs) if logprobs else whole.get("completion_tokens") if len(found) == 1 else None
        yield part.said(
            text,
            question_id=question_id,
            question_text=question,
            sample_index=None if number is None else number * len(found) + place,
            finish_reason="stop" if part.may("finish_reason", str) in _ENDED else "length",
            logprob=sum(logprobs) if logprobs else None,
            num_tokens=tokens if isinstance(tokens, int) else None,
            model=body.may("model", str),
            unique=None if unique is None else f"{unique} choice {place}",
        )


def _text(choice: Row) -> str:
    """Of a chat message or a completion. Thoughts that the server took out of a message are put back as a block."""
    if not choice.has("message"):
        return choice.get("text", str)
    message = choice.at("message")
    thoughts = message.may("reasoning_content", str) or message.may("reasoning", str)
    content = message.may("content", str)
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


def _asked(request: Row) -> str | None:
    """The prompt of a request: its text, or its last message of the user."""
    request = request.at("body") if request.has("body") else request
    if request.has("prompt"):
        return request.get("prompt", str)
    return last_of_user(request.get("messages", list))


def last_of_user(messages: list[Any]) -> str | None:
    said = [m["content"] for m in messages if isinstance(m, Mapping) and m.get("role") == "user" and "content" in m]
    return said[-1] if said and isinstance(said[-1], str) else None
