"""Import of response files: joins each row to its question, parses and checks its answer, and counts it in a ledger.

Responses that agree with the gold answers no better than chance are refused: they were joined to the wrong questions,
or their answers were not parsed, and no later job would detect it.
"""

import collections
import dataclasses
from collections.abc import Iterator

from etils import epath

from scotd_jax.config import FileSource
from scotd_jax.errors import InputError
from scotd_jax.rationales.importers.chance_check import ChanceCheck
from scotd_jax.rationales.importers.import_ledger import ImportLedger
from scotd_jax.rationales.importers.imported import BadRow, BadRowError, ImportedResponse
from scotd_jax.rationales.importers.question_matching import NO_QUESTION, QuestionMatcher
from scotd_jax.rationales.importers.registry import get_importer
from scotd_jax.rationales.importers.row_parsing import RowParser
from scotd_jax.rationales.importers.row_readers import expand_paths, read_ids, stem
from scotd_jax.records import Question, Response, from_mapping
from scotd_jax.tasks.answer_patterns import normalize_answer
from scotd_jax.tasks.prompt_formats import is_correct
from scotd_jax.tasks.question_loader import QuestionsById

LISTED_FILES = 3  # files that a message names


class FileImport:
    """Imports a set of files with one importer.

    Attributes:
      files: all files whose bytes decide the result.
      ledger: counts of rows; complete when `responses` is exhausted.
    """

    def __init__(self, spec: FileSource, where: str, skip_bad: bool = False):
        """Finds the files.

        Args:
          spec: the source.
          where: its config path, for messages.
          skip_bad: whether broken rows are counted and left out; otherwise the first one is an error.

        Raises:
          InputError: on wrong settings and missing files.
        """
        self._options, self._importer_name, self._skip_bad = spec.options, spec.importer, skip_bad
        self._importer = get_importer(spec.importer, spec.options, spec.answer_pattern, where)
        self._parser = RowParser(spec.options, spec.answer_pattern)
        self._paths = expand_paths(spec.path, f"{where}.path")
        ids = spec.options.get("ids") or self._importer.ids(self._paths[0])
        self._ids_path = epath.Path(ids) if ids else None
        companions = [file for path in self._paths for file in self._importer.files(path, spec.options)]
        self.files = list(dict.fromkeys([*self._paths, *companions, *filter(None, [self._ids_path])]))
        counts = collections.Counter(path.name for path in self._paths)
        self._names = {path: path.name if counts[path.name] == 1 else str(path) for path in self._paths}
        self.ledger = ImportLedger(list(self._names.values()))
        self._chance = ChanceCheck()
        self._taken: dict[str, set[int]] = {}  # sample indices by question id
        self._unique: set[str] = set()  # `ImportedResponse.unique` of all responses so far

    def responses(self, questions: QuestionsById) -> Iterator[Response]:
        """Yields the responses to the questions, in the order of the files.

        Raises:
          InputError: on the first broken row, unless broken rows are skipped; and at the end, if no row could be
            imported or the answers agree with the gold answers no better than chance.
        """
        matcher = QuestionMatcher(questions, self._options.get("prompt", "{question}"))
        ids = None if self._ids_path is None else read_ids(self._ids_path)
        records_before = 0
        for path in self._paths:
            file, records = self._names[path], 0
            for row in self._importer.read(path, self._options):
                self.ledger.count_read(file)
                records = max(records, row.row + 1)
                try:
                    usable = self._usable(row, ids, records_before)
                    question, task = questions[matcher.find(usable)]
                    _check_gold(usable, question)
                    parsed = self._parser.parse(usable, question, task)
                    answer = self._parser.answer_in_form(parsed.answer, question)
                    text = task.format.target(parsed.rationale, answer) if parsed.text is None else parsed.text
                    response = self._response(parsed, path, question, text, answer)
                except BadRowError as error:
                    self._skip(file, row.where, error)
                    continue
                self._record(file, usable, question, response)
                yield response
            records_before += records
        if ids is not None and records_before != len(ids):
            raise InputError(
                f"{self._ids_path}: {len(ids)} ids for {records_before} records; expected one per record, in order"
            )
        self._check_result()

    def _usable(self, row: ImportedResponse | BadRow, ids: list[str] | None, records_before: int) -> ImportedResponse:
        """Returns a response with its question id from the file of ids, if there is one.

        `records_before` is the number of records in earlier files. Raises BadRowError for bad and duplicate rows.
        """
        if isinstance(row, BadRow):
            if row.rest_lost and ids is not None:
                raise InputError(
                    f"{row.where}: {row.detail}. The ids in {self._ids_path} cannot be assigned to the records after it"
                )
            raise BadRowError(row.reason, row.detail)
        if ids is not None:
            record = records_before + row.row
            if record >= len(ids):
                raise InputError(f"{row.where}: record {record + 1}, but {self._ids_path} has {len(ids)} ids")
            row = dataclasses.replace(row, question_id=ids[record])
        elif row.question_id is None and row.question_text is None:
            raise InputError(
                f"{row.where}: names no question, neither by id nor by text, and rows are never joined by their "
                "order alone: set the option 'ids' to a file with the question id of every record"
            )
        if row.unique is not None and row.unique in self._unique:
            raise BadRowError("duplicate", f"{row.unique!r} came before; expected every response once")
        return row

    def _response(
        self, row: ImportedResponse, path: epath.Path, question: Question, text: str, answer: str | None
    ) -> Response:
        response = Response(
            question_id=question.id,
            sample_index=self._sample_index(row, question.id),
            text=text,
            rationale=row.rationale,
            answer=answer,
            correct=is_correct(answer, question),
            finish_reason=row.finish_reason,
            logprob=round(row.logprob or 0.0, 4),
            num_tokens=row.num_tokens or 0,
            model=self._options.get("model") or row.model or stem(path),
            sampling=self._options.get("sampling") or row.sampling or "",
        )
        try:
            return from_mapping(Response, vars(response), "the response")
        except InputError as error:  # a value that no job could read again
            raise BadRowError("wrong form", str(error)) from None

    def _sample_index(self, row: ImportedResponse, question_id: str) -> int:
        """The row's own index, or the first free one."""
        taken = self._taken.get(question_id, set())
        if row.sample_index is None or self._options.get("renumber"):
            index = len(taken)
            while index in taken:
                index += 1
            return index
        if row.sample_index in taken:
            raise BadRowError(
                "duplicate",
                f"sample {row.sample_index} of question {question_id!r} came before; expected every sample once "
                "(if every file counts its samples from 0: option renumber=True)",
            )
        return row.sample_index

    def _record(self, file: str, row: ImportedResponse, question: Question, response: Response) -> None:
        self._taken.setdefault(question.id, set()).add(response.sample_index)
        if row.unique is not None:
            self._unique.add(row.unique)
        self.ledger.count_imported(file, response)
        self._chance.add(len(question.choices), response)

    def _skip(self, file: str, where: str, error: BadRowError) -> None:
        is_other_question = self._options.get("subset") and error.reason == NO_QUESTION
        if not self._skip_bad and not is_other_question:
            raise InputError(f"{where}: {error.detail}. Fix the file, or leave such rows out: --skip-bad")
        self.ledger.count_skipped(file, error.reason, where)

    def _check_result(self) -> None:
        names = list(self._names.values())
        files = ", ".join([*names[:LISTED_FILES], "..."] if len(names) > LISTED_FILES else names)
        if not self._taken:
            raise InputError(
                f"{files}: no row could be imported with importer {self._importer_name!r}; {self.ledger.summary()}"
            )
        if not self._options.get("allow_chance") and (message := self._chance.refusal()):
            raise InputError(f"{files}: {message}")


def _check_gold(row: ImportedResponse, question: Question) -> None:
    """Raises BadRowError if the gold answers of row and question differ, a sign of a join to the wrong question."""
    if row.gold is None or question.answer is None or not question.choices:
        return
    gold = normalize_answer(row.gold, question)
    if gold is not None and not is_correct(gold, question):
        raise BadRowError(
            "gold differs",
            f"the row's gold answer is {gold!r}, that of question {question.id!r} is {question.answer!r}; "
            "the row was joined to the wrong question, or one of the two is wrong",
        )
