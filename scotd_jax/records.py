"""The two records that pass between all stages: a `Question` is asked, a `Response` is what a model said.

Both are one JSON object per line on disk. Reading is strict: unknown, missing or wrongly typed fields are refused,
so that a file of another format can never be taken for one of ours.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from scotd_jax.errors import InputError

R = TypeVar("R", "Question", "Response")
Turn = Mapping[str, str]  # of a chat: {"role": "user" or "assistant", "content": TEXT}
Prompt = str | Sequence[Turn]  # how a question reaches a model: as a text, or as the turns of a chat


@dataclasses.dataclass(frozen=True)
class Question:
    """One question of a task.

    `id` is unique over everything a run reads (by convention "task/split/name"). `answer` is the gold answer in
    the form in which students are asked to print it; None where it is not known. `group` ties the members of a
    contrast pair together. `context` is a passage that the question is about. `tags` are free labels by which
    results are broken down (family, number of steps).
    """

    id: str
    task: str
    split: str
    text: str
    choices: tuple[str, ...] = ()
    answer: str | None = None
    group: str | None = None
    context: str | None = None
    tags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Response:
    """One thing a model said to one question. `(question_id, sample_index)` is its name and is unique in a file.

    `text` is what was said, up to the stop string; `rationale` and `answer` are what the task parsed out of it
    (None: unparsable) and `correct` compares that answer with the gold one (None: no gold answer).
    `finish_reason` is "stop" (end token or stop string) or "length" (ran into the limit). `logprob` is the natural
    log-probability of all `num_tokens` tokens, the end token included, under the untempered model. `model` names
    the speaker and `sampling` the policy.
    """

    question_id: str
    sample_index: int
    text: str
    rationale: str | None
    answer: str | None
    correct: bool | None
    finish_reason: str
    logprob: float
    num_tokens: int
    model: str
    sampling: str

    @property
    def key(self) -> tuple[str, int]:
        return self.question_id, self.sample_index


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool | None": (bool, type(None)),
    "str | None": (str, type(None)),
    "tuple[str, ...]": (list, tuple),
}


def to_json(record: Question | Response) -> str:
    """One line of JSON, without the line end; keys in declaration order, so equal records give equal bytes."""
    return json.dumps({f.name: getattr(record, f.name) for f in dataclasses.fields(record)}, ensure_ascii=False)


def from_json(kind: type[R], line: str, where: str) -> R:
    """Reads one line back. `where` ("FILE line 12") opens every message.

    Raises InputError on broken JSON and on unknown, missing or wrongly typed fields.
    """
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not a JSON object ({error}); expected one {kind.__name__} per line") from None
    if not isinstance(fields, dict):
        raise InputError(f"{where}: expected a JSON object with the fields of {kind.__name__}, found {line[:60]!r}")
    return from_mapping(kind, fields, where)


def from_mapping(kind: type[R], fields: Mapping[str, Any], where: str) -> R:
    """A record from its fields. Raises InputError as `from_json` does."""
    declared, required = _form(kind)
    if unknown := sorted(fields.keys() - declared.keys()):
        raise InputError(f"{where}: unknown field {unknown[0]!r}; a {kind.__name__} has {', '.join(declared)}")
    if missing := [n for n in required if n not in fields]:
        raise InputError(f"{where}: field {missing[0]!r} is missing; a {kind.__name__} needs {', '.join(required)}")
    values = {}
    for name, value in fields.items():
        expected, allowed = declared[name]
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            raise InputError(f"{where}: field {name!r} should be {expected}, found {value!r}")
        if expected.startswith("tuple"):
            if any(not isinstance(v, str) for v in value):
                raise InputError(f"{where}: field {name!r} should be a list of strings, found {value!r}")
            value = tuple(value)
        values[name] = value
    return kind(**values)


@functools.cache
def _form(kind: type) -> tuple[dict[str, tuple[str, tuple[type, ...]]], list[str]]:
    """The fields of a kind of record, each with the name of its type and what may be read for it, and those that must
    be there."""
    fields = dataclasses.fields(kind)
    names = {f.name: str(f.type).replace("<class '", "").replace("'>", "") for f in fields}
    return (
        {field: (name, _TYPES[name]) for field, name in names.items()},
        [f.name for f in fields if f.default is dataclasses.MISSING],
    )
