"""A dataset is one small function from a row to a question; everything else that datasets share is here.

`DataRow` is what such a function gets: the fields of the row as the official file or a library delivers them, with
helpers that report a broken row by its place. `Dataset` adds the names of the official files. `load` makes a task.

Options of every task that is made so: `files`, a file name per split (also with *, several files one after the other).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from scotd_jax import config
from scotd_jax.errors import InputError
from scotd_jax.records import Question, Response
from scotd_jax.tasks.base import SplitTask
from scotd_jax.tasks.dataset_libraries import RowReaders, library_source
from scotd_jax.tasks.prompt_formats import PromptFormat, check_answer, get_prompt_format
from scotd_jax.tasks.row_files import LocatedRow, read_rows, split_name


@dataclasses.dataclass(frozen=True, eq=False)
class DataRow(Mapping[str, Any]):
    """The fields of one row. A missing one raises InputError; `get` gives None instead."""

    fields: Mapping[str, Any]
    where: str  # "FILE line N", for messages
    task: str
    split: str
    number: int  # of the row in its split, from 0
    options: Mapping[str, Any]  # of the dataset, complete with defaults

    def __getitem__(self, name: str) -> Any:
        if name not in self.fields:
            raise InputError(f"{self.where}: field {name!r} is missing; the row has {', '.join(self.fields) or 'none'}")
        return self.fields[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.fields.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def text(self, *names: str) -> str:
        """The first of these fields that the row has, as text without surplus white space; InputError if empty."""
        name = next((name for name in names if name in self.fields), names[0])
        text = tidy(self[name])
        if not text:
            raise InputError(f"{self.where}: field {name!r} is empty; expected text")
        return text

    def label(self, forms: Mapping[str, str], *names: str) -> str | None:
        """The answer that a label stands for, by its lower-case text ("1", "true", "positive") in `forms`.

        None where there is no label: an empty one, or -1. Raises InputError on any other.
        """
        name = next((name for name in names if name in self.fields), None)
        said = "" if name is None else str("" if self[name] is None else self[name]).strip().lower()
        if said in ("", "-1", "-"):
            return None
        if said not in forms:
            raise InputError(f"{self.where}: {name} {self[name]!r} is not a label; expected one of {', '.join(forms)}")
        return forms[said]

    def lines(self, *parts: str) -> str:
        """The parts on lines of their own; a format that has none writes blanks instead."""
        return "\n".join(parts)

    def question(
        self,
        text: str,
        answer: str | None,
        choices: Sequence[str] = (),
        *,
        id: Any = None,
        context: str | None = None,
        group: str | None = None,
        tags: tuple[str, ...] = (),
    ) -> Question:
        """The question. Its id is "TASK/SPLIT/ID", with the row's number for an `id` that is None."""
        return Question(
            id=f"{self.task}/{self.split}/{self.number if id is None else id}",
            task=self.task,
            split=self.split,
            text=text,
            choices=tuple(choices),
            answer=answer,
            group=None if group is None else f"{self.task}/{group}",
            context=context,
            tags=tags,
        )


@dataclasses.dataclass(frozen=True)
class Dataset:
    """`question` makes the question of a row. `files` names, per split, the official files, the first that is there.

    With `files` empty every SPLIT.jsonl, .json, .csv and .tsv of the folder is a split. `read` gives the rows of one
    file, `rationales` those that come with a row. `options` names further options, each with its allowed values, the
    first being the default; "{option}" in a name of a file or of a library's split stands for the value. `splits`
    gives splits of libraries another name. `expected` says in messages what a row should look like.
    `exemplars` is a name of tasks/exemplars, "{option}" as above.
    """

    question: Callable[[DataRow], Question]
    files: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    read: Callable[[epath.Path], Iterator[LocatedRow]] = read_rows
    rationales: Callable[[DataRow], Sequence[str]] = lambda row: ()
    options: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    expected: str = ""
    exemplars: str = ""


class RowTask(SplitTask):
    """A task whose questions are rows of a dataset. `ask` makes a question of a row, also of one from elsewhere."""

    def __init__(
        self,
        dataset: Dataset,
        name: str,
        prompt_format: PromptFormat,
        spec: config.Task,
        options: Mapping,
        source: RowReaders,
    ):
        self.dataset = dataset
        self.options = options
        loaders = {split: (lambda split=split: self._read(split, source[split], spec.limit)) for split in source}
        super().__init__(name, prompt_format, loaders, spec.limit)

    def row(self, fields: Mapping[str, Any], where: str, split: str, number: int) -> DataRow:
        return DataRow(fields, where, self.name, split, number, self.options)

    @property
    def exemplars(self) -> str:
        """The name of the dataset's own exemplars."""
        return self.dataset.exemplars.format_map(self.options).lower()

    def to_question(self, row: DataRow) -> Question:
        """The question of a row. Raises InputError if the row or what the dataset makes of it is not in order."""
        try:
            question = self.dataset.question(row)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            expected = f"expected {self.dataset.expected}, but " if self.dataset.expected else ""
            problem = f"reading it failed with {type(error).__name__}: {error}"
            raise InputError(f"{row.where}: {expected}{problem}") from error
        check_answer(question, row.where)
        return question

    def _read(self, split: str, rows: Callable, limit: int) -> tuple[list[Question], list[Response]]:
        questions, responses = {}, []
        for number, (where, fields) in enumerate(itertools.islice(rows(), limit or None)):
            row = self.row(fields, where, split, number)
            question = self.to_question(row)
            if question.id in questions:
                raise InputError(f"{where}: the id {question.id!r} occurs twice; ids must be unique")
            questions[question.id] = question
            if question.answer is not None:
                said = [tidy(text) for text in self.dataset.rationales(row)]
                responses += [
                    gold_response(question, i, text, self.format) for i, text in enumerate(filter(None, said))
                ]
        return list(questions.values()), responses


def load(dataset: Dataset, name: str, spec: config.Task, seed: int) -> RowTask:
    """The task. Raises InputError on unknown options or files; a broken row is reported when its split is read."""
    del seed
    here = f"config.tasks.{name}"
    options = _options(dataset, spec, here)
    files = {split: tuple(f.format_map(options) for f in names) for split, names in dataset.files.items()}
    if not spec.path:
        raise InputError(f"{here}.path: needs the folder of its files, or datasets:NAME, or tfds:NAME")
    source = library_source(spec.path, f"{here}.path")
    if source is None:
        source = _folder(epath.Path(spec.path), files, spec.options.get("files"), dataset.read, here)
    else:
        names = {"validation": "dev"} | {old.format_map(options): new for old, new in dataset.splits.items()}
        source = {names.get(split, split): rows for split, rows in source.items()}
    return RowTask(dataset, name, get_prompt_format(spec.format or "scotd", f"{here}.format"), spec, options, source)


def tidy(text: Any) -> str:
    """Text without white space at its ends and with single blanks inside. Raises TypeError on anything but text."""
    if not isinstance(text, str):
        raise TypeError(f"expected text, found {text!r}")
    return " ".join(text.split())


def _options(dataset: Dataset, spec: config.Task, here: str) -> dict[str, Any]:
    for option, value in spec.options.items():
        if option != "files" and option not in dataset.options:
            known = ", ".join(("files", *dataset.options))
            raise InputError(f"{here}.options.{option}: a task of kind {spec.kind!r} has the options {known}")
        if option != "files" and value not in dataset.options[option]:
            allowed = ", ".join(map(str, dataset.options[option]))
            raise InputError(f"{here}.options.{option}: {value!r} is not one of {allowed}")
    return {option: spec.options.get(option, values[0]) for option, values in dataset.options.items()}


def _folder(
    folder: epath.Path,
    official: Mapping[str, Sequence[str]],
    chosen: Any,
    read: Callable[[epath.Path], Iterator[LocatedRow]],
    here: str,
) -> RowReaders:
    if chosen is not None:
        if not isinstance(chosen, Mapping) or not all(isinstance(file, str) for file in chosen.values()):
            raise InputError(f"{here}.options.files: expected a file name per split, found {chosen!r}")
        found = {split: _matches(folder, file) for split, file in chosen.items()}
        if missing := [split for split, paths in found.items() if not paths]:
            raise InputError(f"{here}.options.files: {folder / chosen[missing[0]]}: no such file")
    elif official:
        tried = {s: [p for name in names for p in (name, f"{name}.gz")] for s, names in official.items()}
        found = {s: next(filter(None, (_matches(folder, name) for name in names)), []) for s, names in tried.items()}
        found = {split: paths for split, paths in found.items() if paths}
    else:
        found = {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if split := split_name(path):
                if split in found:
                    raise InputError(f"{here}.path: {found[split][0]} and {path} are one split; say options.files")
                found[split] = [path]
    if not found:
        names = ", ".join(name for names in official.values() for name in names) or "SPLIT.jsonl, .json, .csv or .tsv"
        raise InputError(f"{here}.path: {folder} holds none of the files {names}; name yours by options.files")
    return {split: (lambda paths=paths: itertools.chain(*map(read, paths))) for split, paths in found.items()}


def _matches(folder: epath.Path, name: str) -> list[epath.Path]:
    if "*" in name:
        return sorted(folder.glob(name))
    return [folder / name] if (folder / name).exists() else []


def gold_response(question: Question, index: int, rationale: str, prompt_format: PromptFormat) -> Response:
    """A rationale that came with the data: certain (log-probability zero), counted in words."""
    text = prompt_format.target(rationale, question.answer).removesuffix(prompt_format.end)
    words = len(text.split())
    return Response(question.id, index, text, rationale, question.answer, True, "stop", 0.0, words, "data", "gold")
