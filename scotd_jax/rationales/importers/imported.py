"""What every importer yields: one `Said` per response, in the words of its file, or one `Bad` per row that is broken.

An importer only reads. It does not know the questions: which of them a row answers, whether it does so rightly and
what becomes of a broken row is decided by who joins them (rationales/importers/joining.py).
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath


@dataclasses.dataclass(frozen=True)
class ImportedResponse:
    """One response as its file has it. Whatever the file does not tell is None.

    `where` names file and row. `row` counts the file's records from 0; several responses may come from one record.
    `text` is the completion; None where the file has only its parts, `rationale` and `answer`. `parsed` says that the
    importer has read both by a rule of its own, so that None is "there is none"; else the task's format reads `text`.
    `gold` is what the file takes for the right answer. `unique` names a response that may come only once.
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
    finish_reason: str = "stop"  # or "length"
    logprob: float | None = None
    num_tokens: int | None = None
    model: str | None = None
    sampling: str | None = None
    unique: str | None = None


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that cannot be used. `reason` is its bin in the ledger, `detail` says what was expected.

    `whole` is True where the rest of the file is lost with it, so that nobody knows how many rows that were.
    """

    where: str
    row: int
    reason: str
    detail: str
    rest_lost: bool = False


ImportResults = Iterator[ImportedResponse | BadRow]


class BadRowError(Exception):
    """Raised while a row is read; `each` makes a `Bad` of it."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True)
class SourceRow:
    """One record of a file and its place. Reading a field of it raises BadRowError if it is not as expected."""

    where: str
    number: int  # from 0
    value: Any
    key: str | None = None  # where the file is an object of records

    def response(self, text: str | None, **fields: Any) -> ImportedResponse:
        return ImportedResponse(self.where, self.number, text, **fields)

    def bad_row(self, reason: str, detail: str) -> BadRow:
        return BadRow(self.where, self.number, reason, detail)

    def has(self, name: str) -> bool:
        return isinstance(self.value, Mapping) and self.value.get(name) is not None

    def required(self, name: str, kind: type | tuple[type, ...] = object) -> Any:
        """A field that must be there."""
        if not isinstance(self.value, Mapping):
            raise BadRowError("wrong form", f"expected a JSON object with the field {name!r}, found {self.value!r:.60}")
        if name not in self.value:
            raise BadRowError("missing field", f"field {name!r} is missing; found {', '.join(self.value) or 'none'}")
        return self._checked(name, kind)

    def optional(self, name: str, kind: type | tuple[type, ...] = object) -> Any:
        """A field that may be missing or null: then None."""
        return self._checked(name, kind) if self.has(name) else None

    def first_of(self, names: Iterable[str], kind: type | tuple[type, ...]) -> Any:
        """The first of some fields that is there; one of them must be."""
        names = tuple(names)
        return self.required(next((name for name in names if self.has(name)), names[0]), kind)

    def nested(self, name: str) -> "Row":
        """The object that a field holds, to be read in the same way."""
        return dataclasses.replace(self, value=self.required(name, dict))

    def _checked(self, name: str, kind: type | tuple[type, ...]) -> Any:
        value = self.value[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, float, (int, float))):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            names = " or ".join(k.__name__ for k in kinds)
            raise BadRowError("wrong form", f"field {name!r} should be {names}, found {value!r:.60}")
        return value


ImportOptions = Mapping[str, Any]
ReadFile = Callable[[epath.Path, ImportOptions], ImportResults]


@dataclasses.dataclass(frozen=True)
class Importer:
    """How one kind of file is read: `read(path, options)`, and the options that it takes besides those of all.

    `files(path, options)` are further files that it reads beside `path`; their bytes belong to what was imported.
    `ids(path)` is the file of ids, one per record, that lies beside `path` by default.
    `answers` is False for an importer with a rule of its own for answers, which takes no option "answer".
    """

    read: ReadFile
    options: tuple[str, ...] = ()
    files: Callable[[epath.Path, ImportOptions], list[epath.Path]] = lambda path, options: []
    ids: Callable[[epath.Path], epath.Path | None] = lambda path: None
    answers: bool = True


def parse_rows(
    rows: Iterable[SourceRow | BadRow], parse: Callable[[SourceRow], Iterable[ImportedResponse | BadRow]]
) -> ImportResults:
    """What `parse` makes of every row; a row that it refuses is a `Bad`, and what it had yielded before stays."""
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            yield from parse(row)
        except BadRowError as bad:
            yield row.bad_row(bad.reason, bad.detail)
