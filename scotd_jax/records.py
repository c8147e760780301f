"""The two records that pass between all stages: `Question` and `Response`.

On disk each is one JSON object per line. Reading is strict: unknown, missing or wrongly typed fields and values that no
job writes are refused, so a damaged file, or one of another format, is never mistaken for one of these.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from scotd_jax.errors import InputError
from scotd_jax.strict_json import loads

# `Question`, `Response`, or another dataclass of one JSON object per line (rationales/student_scores.py).
RecordType = TypeVar("RecordType")
Turn = Mapping[str, str]  # one turn of a chat: {"role": "user" or "assistant", "content": TEXT}
Prompt = str | Sequence[Turn]  # a text, or the turns of a chat


@dataclasses.dataclass(frozen=True)
class Question:
    """One question of a task.

    Attributes:
      id: unique over all questions of a run, by convention "task/split/name".
      task: name of the task.
      split: name of the split.
      text: the question.
      choices: texts of the answer options; empty for open questions.
      answer: gold answer in the form that students generate; None if unknown.
      group: name of the contrast group that the question belongs to.
      context: a passage that the question refers to.
      tags: free labels for breaking down results (family, number of steps).
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
    """One response of a model to a question, identified by `(question_id, sample_index)`.

    Attributes:
      question_id: id of the question.
      sample_index: index of the sample, from 0.
      text: generated text up to the stop string.
      rationale: parsed rationale; None if there is none.
      answer: parsed answer; None if it cannot be parsed.
      correct: whether the answer equals the gold answer; None without a gold answer.
      finish_reason: "stop" (end token or stop string) or "length" (token limit).
      logprob: natural log-probability of all `num_tokens` tokens under the model at temperature 1.
      num_tokens: number of generated tokens, end token included.
      model: name of the model.
      sampling: description of the sampling policy, for readers.
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
        """The identity of the response, `(question_id, sample_index)`."""
        return self.question_id, self.sample_index

    @property
    def has_rationale(self) -> bool:
        """Whether there is a rationale that is not empty."""
        return bool(self.rationale and self.rationale.strip())


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "float | None": (float, int, type(None)),
    "bool | None": (bool, type(None)),
    "str | None": (str, type(None)),
    "tuple[str, ...]": (list, tuple),
}


MAX_LOGPROB = 0.01  # log-probabilities are at most 0, apart from rounding
# Allowed values of fields, and how messages describe them.
_INTEGERS = (lambda value: 0 <= value < 2**31, "at least 0")
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "sample_index": _INTEGERS,
    "num_tokens": _INTEGERS,
    "logprob": (lambda value: math.isfinite(value) and value <= MAX_LOGPROB, "a log-probability, at most 0"),
    "finish_reason": (lambda value: value in ("stop", "length"), "'stop' or 'length'"),
}


def to_json(record: Any) -> str:
    """Returns a line of JSON without the line end. Keys are in declaration order: equal records give equal bytes."""
    return json.dumps({f.name: getattr(record, f.name) for f in dataclasses.fields(record)}, ensure_ascii=False)


def from_json(kind: type[RecordType], line: str, where: str) -> RecordType:
    """Parses one line.

    Args:
      kind: `Question`, `Response`, or another dataclass.
      line: a JSON object.
      where: "FILE line 12", which begins every message.

    Raises:
      InputError: on malformed JSON, on unknown, missing or wrongly typed fields, and on values out of range.
    """
    try:
        fields = loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not a JSON object ({error}); expected one {kind.__name__} per line") from None
    if not isinstance(fields, dict):
        raise InputError(f"{where}: expected a JSON object with the fields of {kind.__name__}, found {line[:60]!r}")
    return from_mapping(kind, fields, where)


def from_mapping(kind: type[RecordType], fields: Mapping[str, Any], where: str) -> RecordType:
    """Creates a record from its fields. Raises InputError like `from_json`."""
    declared, required = _schema(kind)
    if unknown := sorted(fields.keys() - declared.keys()):
        raise InputError(f"{where}: unknown field {unknown[0]!r:.60}; a {kind.__name__} has {', '.join(declared)}")
    if missing := [n for n in required if n not in fields]:
        raise InputError(f"{where}: field {missing[0]!r} is missing; a {kind.__name__} needs {', '.join(required)}")
    values = {}
    for name, value in fields.items():
        expected, allowed = declared[name]
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            raise InputError(f"{where}: field {name!r} should be {expected}, found {value!r:.60}")
        if expected.startswith("tuple"):
            if any(not isinstance(v, str) for v in value):
                raise InputError(f"{where}: field {name!r} should be a list of strings, found {value!r:.60}")
            value = tuple(value)
        if expected == "float":
            value = float(value)  # JSON writes 1.0 and 1
        if name in _RANGES and not _RANGES[name][0](value):
            raise InputError(f"{where}: field {name!r} should be {_RANGES[name][1]}, found {value!r:.60}")
        if expected.startswith("float") and value is not None and not math.isfinite(value):
            raise InputError(f"{where}: field {name!r} should be a finite number, found {value!r}")
        values[name] = value
    return kind(**values)


@functools.cache
def _schema(kind: type) -> tuple[dict[str, tuple[str, tuple[type, ...]]], list[str]]:
    """Returns field name -> (name of its type, accepted Python types), and the names of the required fields."""
    fields = dataclasses.fields(kind)
    # The type of a field is a class, such as `str`, or an expression, such as `str | None`.
    names = {f.name: str(f.type).replace("<class '", "").replace("'>", "") for f in fields}
    return (
        {field: (name, _TYPES[name]) for field, name in names.items()},
        [f.name for f in fields if f.default is dataclasses.MISSING],
    )


def fold_spelling(answer: str) -> str:
    """Returns an answer without differences in case and spacing: equal answers have equal folded spellings."""
    return " ".join(answer.split()).casefold()
