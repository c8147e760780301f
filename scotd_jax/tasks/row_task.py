"""Tasks made of rows. A dataset needs only one small function from a row to a question; this module provides the rest.

The function gets a `DataRow`: the fields of the row as the official file or a library delivers them, with helpers that
report a malformed row by its file and line. `Dataset` adds the names of the official files. `load` creates the task.

All such tasks have the option `files`, a file name per split (with *, several files are read one after another). A
contrast edit names its original question in a column `original_id` (contrast_pairs.py).
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from scotd_jax import config
from scotd_jax.errors import InputError, list_names
from scotd_jax.records import Question, Response
from scotd_jax.tasks.base import SplitTask
from scotd_jax.tasks.contrast_pairs import COLUMN, aligned_original, named_original
from scotd_jax.tasks.dataset_libraries import RowReaders, library_source
from scotd_jax.tasks.prompt_formats import PromptFormat, check_answer, get_prompt_format
from scotd_jax.tasks.row_files import LocatedRow, read_rows
from scotd_jax.tasks.split_files import split_readers


@dataclasses.dataclass(frozen=True, eq=False)
class DataRow(Mapping[str, Any]):
    """The fields of one row. A missing field raises InputError; `get` returns a default instead.

    Attributes:
      fields: the fields as they were read.
      where: "FILE line N", for messages.
      task: name of the task.
      split: name of the split.
      number: index of the row in its split, from 0.
      options: options of the dataset, including defaults.
    """

    fields: Mapping[str, Any]
    where: str
    task: str
    split: str
    number: int
    options: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        if name not in self.fields:
            raise InputError(f"{self.where}: field {name!r} is missing; the row has {list_names(self.fields)}")
        return self.fields[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Returns a field, or `default` if it is missing."""
        return self.fields.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def text(self, *names: str) -> str:
        """Returns the first existing field of `names` as text with single spaces. Raises InputError if it is empty."""
        name = next((name for name in names if name in self.fields), names[0])
        text = tidy(self[name])
        if not text:
            raise InputError(f"{self.where}: field {name!r} is empty; expected text")
        return text

    def label(self, forms: Mapping[str, str], *names: str) -> str | None:
        """Returns the answer that a label stands for.

        Args:
          forms: maps the lower-case text of a label ("1", "true", "positive") to its answer.
          *names: fields of the label; the first existing one is read.

        Returns:
          The answer; None if the label is missing, empty or -1.

        Raises:
          InputError: on any other label.
        """
        name = next((name for name in names if name in self.fields), None)
        value = None if name is None else self[name]
        label = "" if value is None else str(value).strip().lower()
        if label in ("", "-1", "-"):
            return None
        if label not in forms:
            raise InputError(f"{self.where}: {name} {value!r} is not a label; expected one of {', '.join(forms)}")
        return forms[label]

    def lines(self, *parts: str) -> str:
        """Returns the parts on separate lines; prompt formats without line ends replace these by spaces."""
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
        """Returns a question with the id "TASK/SPLIT/ID"; an `id` of None stands for the row number."""
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
    """Description of a dataset. "{option}" in file names, split names and `exemplars` stands for the option's value.

    Attributes:
      question: converts a row to a question.
      files: candidate file names per split, in order of preference; if empty, every SPLIT.jsonl, .json, .csv and .tsv
        of the folder is a split.
      read: reads the rows of one file.
      rationales: returns the rationales that come with a row.
      options: further options with their allowed values; the first one is the default.
      splits: renames splits of the dataset libraries.
      expected: an example of a row, for messages.
      exemplars: name of the default few-shot examples in tasks/exemplars.
      edits: maps a split of contrast edits to the split of their originals, if row k of one belongs to row k of the
        other.
    """

    question: Callable[[DataRow], Question]
    files: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    read: Callable[[epath.Path], Iterator[LocatedRow]] = read_rows
    rationales: Callable[[DataRow], Sequence[str]] = lambda row: ()
    options: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    expected: str = ""
    exemplars: str = ""
    edits: Mapping[str, str] = dataclasses.field(default_factory=dict)


class RowTask(SplitTask):
    """A task whose questions are the rows of a dataset."""

    def __init__(
        self,
        dataset: Dataset,
        name: str,
        prompt_format: PromptFormat,
        spec: config.Task,
        options: Mapping,
        readers: RowReaders,
    ):
        """Creates a task from one row reader per split; `load` does so from a config."""
        self.dataset = dataset
        self.options = options
        # Aligned pairs need the files of both splits.
        self._edits = {
            edits: originals for edits, originals in dataset.edits.items() if {edits, originals} <= {*readers}
        }
        loaders = {split: (lambda split=split: self._read(split, readers[split], spec.limit)) for split in readers}
        super().__init__(name, prompt_format, loaders, spec.limit)

    @property
    def exemplars(self) -> str:
        """The name of the dataset's default exemplars."""
        return self.dataset.exemplars.format_map(self.options).lower()

    def row(self, fields: Mapping[str, Any], where: str, split: str, number: int) -> DataRow:
        """Returns a row of this task from its fields."""
        return DataRow(fields, where, self.name, split, number, self.options)

    def to_question(self, row: DataRow) -> Question:
        """Converts a row to a question. Raises InputError if the row or the resulting question is malformed."""
        with self._row_errors(row):
            question = self.dataset.question(row)
        check_answer(question, row.where)
        return question

    def rationales(self, row: DataRow) -> list[str]:
        """Returns the rationales that come with a row, without empty ones. Raises InputError like `to_question`."""
        with self._row_errors(row):
            found = self.dataset.rationales(row)
            if isinstance(found, str):
                raise TypeError(f"rationales(row) returned one text, expected a list of texts: {found!r:.60}")
            return [text for text in map(tidy, found) if text]

    @contextlib.contextmanager
    def _row_errors(self, row: DataRow) -> Iterator[None]:
        """Reports errors of the dataset's functions by file and row."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            expected = f"expected {self.dataset.expected}, but " if self.dataset.expected else ""
            problem = f"reading it failed with {type(error).__name__}: {error}"
            raise InputError(f"{row.where}: {expected}{problem}") from error

    def _read(self, split: str, rows: Callable, limit: int) -> tuple[list[Question], list[Response]]:
        questions, responses = {}, []
        originals = self.questions(self._edits[split]) if split in self._edits else None
        for number, (where, fields) in enumerate(itertools.islice(rows(), limit or None)):
            row = self.row(fields, where, split, number)
            question = self._in_group(row, self.to_question(row), originals)
            if question.id in questions:
                raise InputError(f"{where}: the id {question.id!r} occurs twice; ids must be unique")
            questions[question.id] = question
            if question.answer is not None:
                texts = enumerate(self.rationales(row))
                responses += [gold_response(question, i, text, self.format) for i, text in texts]
        return list(questions.values()), responses

    def _in_group(self, row: DataRow, question: Question, originals: Sequence[Question] | None) -> Question:
        """Sets the contrast group of an edit, or of the original of an aligned edit, to the id of the original.

        `originals` are the questions that an aligned split edits; None for any other split.
        """
        group = named_original(row.get(COLUMN), row.where, self.name)
        if group is None and originals is not None:
            group = aligned_original(originals, row.number, question, row.where).id
        elif group is None and row.split in self._edits.values():
            group = question.id
        return question if group is None else dataclasses.replace(question, group=group)


def load(dataset: Dataset, name: str, spec: config.Task, seed: int) -> RowTask:
    """Loads a task of rows.

    Args:
      dataset: its description.
      name: key of the task in the config.
      spec: its config entry.
      seed: unused; part of the interface of task factories.

    Raises:
      InputError: on unknown options or files. Malformed rows raise it later, when their split is loaded.
    """
    del seed
    here = f"config.tasks.{name}"
    options = _options(dataset, spec, here)
    files = {split: tuple(f.format_map(options) for f in names) for split, names in dataset.files.items()}
    if not spec.path:
        raise InputError(f"{here}.path: needs the folder of its files, or datasets:NAME, or tfds:NAME")
    readers = library_source(spec.path, f"{here}.path")
    if readers is None:
        readers = split_readers(epath.Path(spec.path), files, spec.options.get("files"), dataset.read, here)
    else:
        names = {"validation": "dev"} | {old.format_map(options): new for old, new in dataset.splits.items()}
        readers = {names.get(split, split): rows for split, rows in readers.items()}
    return RowTask(dataset, name, get_prompt_format(spec.format or "scotd", f"{here}.format"), spec, options, readers)


def gold_response(question: Question, index: int, rationale: str, prompt_format: PromptFormat) -> Response:
    """Returns a rationale of the dataset as a response, with log-probability 0 and a token count in words."""
    text = prompt_format.target(rationale, question.answer).removesuffix(prompt_format.end)
    words = len(text.split())
    return Response(question.id, index, text, rationale, question.answer, True, "stop", 0.0, words, "data", "gold")


def tidy(text: Any) -> str:
    """Returns stripped text with single spaces. Raises TypeError if the value is not a string."""
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
