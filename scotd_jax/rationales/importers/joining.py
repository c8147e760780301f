"""Responses out of files: every row is joined to its question, its answer read and compared anew, and accounted for.

A corpus that agrees with the gold answers no better than chance is refused: it was joined in the wrong order, or its
answers were not understood, and nothing after this job would notice.
"""

import collections
import dataclasses
from collections.abc import Iterator, Mapping

from etils import epath

from scotd_jax.config import FileSource
from scotd_jax.errors import InputError
from scotd_jax.rationales.importers import answer_extraction
from scotd_jax.rationales.importers.chance_check import ChanceCheck
from scotd_jax.rationales.importers.import_ledger import ImportLedger
from scotd_jax.rationales.importers.imported import BadRow, BadRowError, ImportedResponse
from scotd_jax.rationales.importers.question_matching import NO_QUESTION, Matcher
from scotd_jax.rationales.importers.registry import compile_answer_pattern, get_importer
from scotd_jax.rationales.importers.row_readers import expand_paths, read_ids, stem
from scotd_jax.records import Question, Response
from scotd_jax.tasks.base import LoadedTask
from scotd_jax.tasks.prompt_formats import Parsed, choice_letters, is_correct, parse_answer

Asked = Mapping[str, tuple[Question, LoadedTask]]


class Import:
    """One set of files and the importer that reads it.

    `files` are all whose bytes matter; `ledger` is full when `responses` has come to its end. Raises InputError on
    wrong settings and missing files.
    """

    def __init__(self, spec: FileSource, where: str, skip_bad: bool = False):
        self._options, self._name, self._skip_bad = spec.options, spec.importer, skip_bad
        self._importer = get_importer(spec.importer, spec.options, where)
        self._rule = compile_answer_pattern(spec.options, where)
        self._paths = expand_paths(spec.path, f"{where}.path")
        ids = spec.options.get("ids") or self._importer.ids(self._paths[0])
        self._ids_path = epath.Path(ids) if ids else None
        beside = [file for path in self._paths for file in self._importer.files(path, spec.options)]
        self.files = list(dict.fromkeys([*self._paths, *beside, *filter(None, [self._ids_path])]))
        times = collections.Counter(path.name for path in self._paths)
        self._names = {path: path.name if times[path.name] == 1 else str(path) for path in self._paths}
        self.ledger = ImportLedger(list(self._names.values()))
        self._chance = ChanceCheck()
        self._taken: dict[str, set[int]] = {}  # sample indices of every question
        self._unique: set[str] = set()
        self._forms: dict[tuple[str, str], str | None] = {}

    def responses(self, asked: Asked) -> Iterator[Response]:
        """The responses to the questions `asked`, one at a time, in the order of the files.

        Raises InputError on the first bad row, unless bad rows are to be skipped, and at the end on a corpus that
        agrees with the gold answers at chance and on one of which nothing could be used.
        """
        matcher = Matcher(asked, self._options.get("prompt", "{question}"))
        ids = None if self._ids_path is None else read_ids(self._ids_path)
        before = 0
        for path in self._paths:
            file, records = self._names[path], 0
            for row in self._importer.read(path, self._options):
                self.ledger.count_read(file)
                records = max(records, row.row + 1)
                try:
                    said = self._usable(row, ids, before)
                    question, task = asked[matcher.find(said)]
                    response = self._response(said, path, question, task)
                except BadRowError as bad:
                    self._skip(file, row.where, bad)
                    continue
                self._taken.setdefault(question.id, set()).add(response.sample_index)
                if said.unique is not None:
                    self._unique.add(said.unique)
                self.ledger.count_imported(file, question.id, response.answer, response.correct)
                self._chance.add(len(question.choices), response)
                yield response
            before += records
        if ids is not None and before != len(ids):
            raise InputError(
                f"{self._ids_path}: {len(ids)} ids for {before} records; expected one per record, in order"
            )
        self._accept()

    def _usable(self, row: ImportedResponse | BadRow, ids: list[str] | None, before: int) -> ImportedResponse:
        """The row, with its id from the file of ids if there is one. `before`: records of the files before."""
        if isinstance(row, BadRow):
            if row.rest_lost and ids is not None:
                raise InputError(f"{row.where}: {row.detail}. The records after it cannot be told by {self._ids_path}")
            raise BadRowError(row.reason, row.detail)
        if ids is not None:
            if before + row.row >= len(ids):
                raise InputError(f"{row.where}: record {before + row.row + 1}, but {self._ids_path} has {len(ids)} ids")
            row = dataclasses.replace(row, question_id=ids[before + row.row])
        elif row.question_id is None and row.question_text is None:
            raise InputError(
                f"{row.where}: names no question, neither by id nor by its text, and rows are never joined by their "
                "order alone: give the option 'ids', a file with the id of a question per record"
            )
        if row.unique is not None and row.unique in self._unique:
            raise BadRowError("duplicate", f"{row.unique!r} came before; expected every response once")
        return row

    def _response(self, said: ImportedResponse, path: epath.Path, question: Question, task: LoadedTask) -> Response:
        self._check_gold(said, question)
        said = self._read(said, question, task)
        answer = None if said.answer is None else self._form(said.answer, question)
        return Response(
            question_id=question.id,
            sample_index=self._index(said, question.id),
            text=task.format.target(said.rationale, answer) if said.text is None else said.text,
            rationale=said.rationale,
            answer=answer,
            correct=is_correct(answer, question),
            finish_reason=said.finish_reason,
            logprob=round(said.logprob or 0.0, 4),
            num_tokens=said.num_tokens or 0,
            model=self._options.get("model") or said.model or stem(path),
            sampling=self._options.get("sampling") or said.sampling or "",
        )

    def _form(self, answer: str, question: Question) -> str | None:
        """`as_form`, once for all the responses that answer a question alike."""
        key = question.id, answer
        if key not in self._forms:
            self._forms[key] = as_form(answer, question)
        return self._forms[key]

    def _read(self, said: ImportedResponse, question: Question, task: LoadedTask) -> ImportedResponse:
        """With rationale and answer: the importer's, or those of the option "answer" or of the task's format."""
        if said.text is None or said.parsed:
            return self._without_thought(_not_empty(said))
        block = self._thought(said.where, _not_empty(said).text)
        if block is not None and not block.closed:  # cut while it was thinking
            return dataclasses.replace(said, rationale=None, answer=None, finish_reason="length")
        text = said.text if block is None else block.rest
        if self._rule is not None:
            read = answer_extraction.by_pattern(text, self._rule)
        else:
            read = task.format.parse(text, question)
            if read.answer is None and said.answer is not None:
                read = Parsed(said.rationale, said.answer)
        if block is not None and self._options["think"] == "rationale":
            return dataclasses.replace(said, rationale=block.thinking, answer=read.answer)
        return dataclasses.replace(said, text=text, rationale=read.rationale, answer=read.answer)

    def _without_thought(self, said: ImportedResponse) -> ImportedResponse:
        block = self._thought(said.where, said.rationale or "")
        if block is None:
            return said
        inside = self._options["think"] == "rationale" or not block.closed
        return dataclasses.replace(said, rationale=block.thinking if inside else block.rest)

    def _thought(self, where: str, text: str) -> answer_extraction.ThinkingBlock | None:
        """The <think> block that is to be taken out. Raises InputError if nobody said what is to become of one."""
        block = answer_extraction.find_thinking_block(text)
        if block is not None and "think" not in self._options:
            raise InputError(
                f"{where}: holds a <think> block; say what is to become of it with the option 'think': 'keep' leaves "
                "it in the text, 'strip' removes it, 'rationale' takes what is inside as the rationale"
            )
        return None if self._options.get("think") == "keep" else block

    def _check_gold(self, said: ImportedResponse, question: Question) -> None:
        """A row that takes another answer for the right one is not about this question."""
        if said.gold is None or question.answer is None or not question.choices:
            return
        gold = as_form(said.gold, question)
        if gold is not None and not is_correct(gold, question):
            raise BadRowError(
                "gold differs",
                f"the row's right answer is {gold!r}, that of question {question.id!r} is {question.answer!r}; "
                "the row was joined to the wrong question, or one of the two is wrong",
            )

    def _index(self, said: ImportedResponse, question_id: str) -> int:
        taken = self._taken.get(question_id, set())
        if said.sample_index is None or self._options.get("renumber"):
            index = len(taken)
            while index in taken:
                index += 1
            return index
        if said.sample_index in taken:
            raise BadRowError(
                "duplicate",
                f"sample {said.sample_index} of question {question_id!r} came before; expected every sample once "
                "(if the files count their samples each for itself: option renumber=True)",
            )
        return said.sample_index

    def _skip(self, file: str, where: str, bad: BadRowError) -> None:
        if not self._skip_bad and not (self._options.get("subset") and bad.reason == NO_QUESTION):
            raise InputError(f"{where}: {bad.detail}. Mend the file, or leave such rows out: --skip-bad")
        self.ledger.count_skipped(file, bad.reason, where)

    def _accept(self) -> None:
        files = ", ".join(list(self._names.values())[:3]) + ", ..." * (len(self._names) > 3)
        if not self._taken:
            raise InputError(
                f"{files}: no row of it could be imported with importer {self._name!r}; {self.ledger.summary()}"
            )
        if not self._options.get("allow_chance") and (message := self._chance.refusal()):
            raise InputError(f"{files}: {message}")


def as_form(answer: str, question: Question) -> str | None:
    """An answer as the question writes it: "D" and "(d)" are the fourth choice, whether that is asked for by letter
    or by text, and the text of exactly one choice is its letter. None if it is no answer to the question.
    """
    form = parse_answer(answer, question)
    if form is not None or not question.choices:
        return form
    labels = choice_letters(len(question.choices))
    letter = answer_extraction.bare_letter(answer)
    if letter is not None and f"({letter})" in labels:
        place = labels.index(f"({letter})")
    else:
        said = " ".join(answer.split()).casefold()
        places = [i for i, choice in enumerate(question.choices) if " ".join(choice.split()).casefold() == said]
        if len(places) != 1:
            return None
        place = places[0]
    return parse_answer(labels[place], question) or parse_answer(question.choices[place], question)


def _not_empty(said: ImportedResponse) -> ImportedResponse:
    if said.text is not None and not said.text.strip():
        raise BadRowError("empty text", "the response is empty; expected a rationale and an answer")
    if said.text is None and not (said.rationale or "").strip():
        raise BadRowError("empty rationale", "the rationale is empty; expected a text")
    return said
