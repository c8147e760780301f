"""Output of the importers: one `ImportedResponse` per response, and one `BadRow` per unusable row.

An importer only reads files. joining.py finds the question of each row, compares its answer with the gold answer, and
handles bad rows.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from scotd_jax.errors import list_names

Types = type | tuple[type, ...]


@dataclasses.dataclass(frozen=True)
class ImportedResponse:
    """One response as it is in its file; fields that the file lacks are None.

    Attributes:
      where: file and row, for messages.
      row: index of the file's record; several responses may come from one record.
      text: the completion; None if the file has only `rationale` and `answer`.
      question_id: id of the question in the file.
      question_text: the question, or the prompt that contains it.
      sample_index: index of the sample among those of its question.
      parsed: whether the importer has parsed rationale and answer by its own rule, so that None means there is none.
        Otherwise the task's prompt format parses `text`.
      rationale: the reasoning.
      answer: the answer.
      gold: the gold answer in the file.
      finish_reason: "stop" or "length".
      logprob: natural log-probability of all tokens.
      num_tokens: number of tokens.
      model: the model that generated the response.
      sampling: how it was sampled.
      unique: an id that no two responses of an import may share.
    """

    where: str
    row: int
    text: str | None
    question_id: str | None = None
    question_text: str | None = None
    sample_index: int | None = None
    parsed: bool = False
    rationale: str | None = None
    answer: str | None = None
    gold: str | None = None
    finish_reason: str = "stop"
    logprob: float | None = None
    num_tokens: int | None = None
    model: str | None = None
    sampling: str | None = None
    unique: str | None = None


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
      where: file and row, for messages.
      row: index of the file's record.
      reason: its bin in the import ledger.
      detail: the value found and the value expected.
      rest_lost: whether the rest of the file is unreadable, so that the number of its rows is unknown.
    """

    where: str
    row: int
    reason: str
    detail: str
    rest_lost: bool = False


ImportResults = Iterator[ImportedResponse | BadRow]


class BadRowError(Exception):
    """Raised while a row is parsed; `parse_rows` turns it into a `BadRow`."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True)
class SourceRow:
    """One record of a file. Access to a field raises BadRowError if the field is missing or of another type.

    Attributes:
      where: file and row, for messages.
      number: index of the record in the file.
      value: the parsed JSON value.
      key: key of the record, if the file is an object of records.
    """

    where: str
    number: int
    value: Any
    key: str | None = None

    def response(self, text: str | None, **fields: Any) -> ImportedResponse:
        """Returns a response from this row; `fields` are further fields of `ImportedResponse`."""
        return ImportedResponse(self.where, self.number, text, **fields)

    def bad_row(self, reason: str, detail: str) -> BadRow:
        return BadRow(self.where, self.number, reason, detail)

    def has(self, name: str) -> bool:
        """Whether the row has a field that is not null."""
        return isinstance(self.value, Mapping) and self.value.get(name) is not None

    def required(self, name: str, kind: Types = object) -> Any:
        """Returns a field that must exist and be of type `kind`."""
        if not isinstance(self.value, Mapping):
            raise BadRowError("wrong form", f"expected a JSON object with the field {name!r}, found {self.value!r:.60}")
        if name not in self.value:
            raise BadRowError("missing field", f"field {name!r} is missing; found {list_names(self.value)}")
        return self._checked(name, self.value[name], kind)

    def optional(self, name: str, kind: Types = object) -> Any:
        """Returns a field of type `kind`, or None if it is missing or null."""
        return self._checked(name, self.value[name], kind) if self.has(name) else None

    def items(self, name: str, kind: Types = object) -> list[Any]:
        """Returns the items of a list field, which must exist; every item must be of type `kind`."""
        return [self._checked(f"{name}[{i}]", item, kind) for i, item in enumerate(self.required(name, list))]

    def first_of(self, names: Iterable[str], kind: Types) -> Any:
        """Returns the first existing field of `names`; at least one of them must exist."""
        names = tuple(names)
        return self.required(next((name for name in names if self.has(name)), names[0]), kind)

    def nested(self, name: str) -> "SourceRow":
        """Returns the object in a field as a row of its own."""
        return dataclasses.replace(self, value=self.required(name, dict))

    def _checked(self, name: str, value: Any, kind: Types) -> Any:
        # JSON true is a bool, which Python counts as an int.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, float, (int, float))):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            names = " or ".join(k.__name__ for k in kinds)
            raise BadRowError("wrong form", f"field {name!r} should be {names}, found {value!r:.60}")
        return value


ImportOptions = Mapping[str, Any]
ReadFile = Callable[[epath.Path, ImportOptions], ImportResults]


@dataclasses.dataclass(frozen=True)
class Importer:
    """Reader and options of one file format.

    Attributes:
      read: reads a file, `read(path, options)`.
      options: options besides `registry.COMMON_OPTIONS`.
      files: `files(path, options)` returns further files that are read beside `path`; they are part of the import's
        identity.
      ids: `ids(path)` returns the default file of question ids beside `path`, if there is one.
      answers: whether `answer_pattern` applies; False if the importer parses answers by a rule of its own.
    """

    read: ReadFile
    options: tuple[str, ...] = ()
    files: Callable[[epath.Path, ImportOptions], list[epath.Path]] = lambda path, options: []
    ids: Callable[[epath.Path], epath.Path | None] = lambda path: None
    answers: bool = True


def own_rows(responses: Callable[[SourceRow], Iterable[ImportedResponse]], row: SourceRow) -> ImportResults:
    """Yields the responses that the function of a custom importer yields for a row.

    Raises:
      BadRowError: if the function fails, or yields something else.
    """
    try:
        for response in responses(row):
            if not isinstance(response, ImportedResponse | BadRow):
                raise TypeError(f"responses(row) gave {response!r:.60}, expected results of row.response(...)")
            yield response
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BadRowError("wrong form", f"reading it failed with {type(error).__name__}: {error}") from error


def parse_rows(
    rows: Iterable[SourceRow | BadRow], parse: Callable[[SourceRow], Iterable[ImportedResponse | BadRow]]
) -> ImportResults:
    """Parses rows one at a time.

    Args:
      rows: rows of a file.
      parse: yields the responses of a row. It may raise BadRowError, even after it has yielded some.

    Yields:
      The responses and bad rows, in order.
    """
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            yield from parse(row)
        except BadRowError as error:
            yield row.bad_row(error.reason, error.detail)
