"""Importers of Distilling step-by-step (arXiv 2305.02301): completions of PaLM-540B, one per question.

The prediction files SPLIT_CoT_0.json, SPLIT_CoT_1.json, ... are JSON lists of strings without question ids. String k,
counted over all shards, belongs to line k of the released file of questions, or of a file of ids. The official data
sets have another order, so no importer joins strings and official questions by position.
"""

import re
from collections.abc import Iterator

from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.rationales.importers import answer_extraction
from scotd_jax.rationales.importers.imported import (
    BadRow,
    BadRowError,
    ImportedResponse,
    ImportOptions,
    ImportResults,
    SourceRow,
    parse_rows,
)
from scotd_jax.rationales.importers.row_readers import read_json_document, read_json_lines

MARKER = "So the answer is"
_SHARD = re.compile(r"(?P<split>.+)_CoT_(?P<shard>\d+)\.json(\.gz)?")
_QUESTION_FIELDS = ("input", "question")


def commonsenseqa_palm540b(path: epath.Path, options: ImportOptions) -> ImportResults:
    """CommonsenseQA by PaLM-540B.

    Source: distilling-step-by-step, datasets/cqa/llm/SPLIT_CoT_k.json.
    File: one JSON list of completions, which end at the first blank line. The file of ids is by default SPLIT_ids.txt
      beside it: one id per string, over all shards.
    Answer: the single letter directly after "So the answer is": "(a) ocean or (b) sea" is (a), while "either (a) ..
      or (e) .." is no answer.
    """
    del options
    return parse_rows(read_json_document(path, list), lambda row: _parse_completion(row, MARKER, None))


def distilling_step_by_step(path: epath.Path, options: ImportOptions) -> ImportResults:
    """Completions of PaLM-540B beside their questions, as they were released.

    Source: distilling-step-by-step, datasets/NAME/llm/SPLIT_CoT_k.json with datasets/NAME/NAME_SPLIT.json.
    File: one JSON list of completions, joined to JSON lines of questions by position over all shards, which must be
      complete from 0. A line names its question by "id" or "uid", or else by its text.
    Answer: the text after the last marker.
    Options: "rows", the file of questions, if it is elsewhere; "marker", by default "So the answer is" ("The answer is"
      in SVAMP and ASDiv, "Answer:" in e-SNLI).
    """
    (rows,) = rows_file(path, options)
    questions = _read_questions(rows)
    marker = options.get("marker", MARKER)
    begin = _count_earlier_strings(path)
    return parse_rows(
        read_json_document(path, list),
        lambda row: _parse_completion(row, marker, _question_row(begin + row.number, questions, rows)),
    )


def default_ids(path: epath.Path) -> epath.Path | None:
    """Returns SPLIT_ids.txt beside SPLIT_CoT_k.json, if it exists."""
    match = _SHARD.fullmatch(path.name)
    ids = path.parent / f"{match['split']}_ids.txt" if match else None
    return ids if ids is not None and ids.exists() else None


def rows_file(path: epath.Path, options: ImportOptions) -> list[epath.Path]:
    """Returns the file of questions that belongs to a prediction file.

    Raises:
      InputError: if there is none.
    """
    if options.get("rows"):
        return [epath.Path(options["rows"])]
    match = _SHARD.fullmatch(path.name)
    name = path.parent.parent.name
    rows = path.parent.parent / f"{name}_{match['split']}.json" if match else None
    if rows is None or not rows.exists():
        raise InputError(
            f"{path}: its strings name no question, and {rows or 'NAME_SPLIT.json'} does not exist; set the option "
            "'rows': a file of JSON lines, one per string"
        )
    return [rows]


def _read_questions(rows: epath.Path) -> list[SourceRow]:
    questions = []
    for row in read_json_lines(rows):
        if isinstance(row, BadRow):
            raise InputError(f"{row.where}: {row.detail}")
        questions.append(row)
    return questions


def _count_earlier_strings(path: epath.Path) -> int:
    """Number of strings in the shards before this one. Raises InputError if a shard is missing or broken."""
    match = _SHARD.fullmatch(path.name)
    if not match:
        return 0
    shards = {
        int(m["shard"]): p
        for p in path.parent.iterdir()
        if (m := _SHARD.fullmatch(p.name)) and m["split"] == match["split"]
    }
    count = 0
    for number in range(int(match["shard"])):
        if number not in shards:
            raise InputError(
                f"{path.parent / match['split']}_CoT_{number}.json is missing: it decides where the rows of "
                f"{path.name} begin"
            )
        for row in read_json_document(shards[number], list):
            if isinstance(row, BadRow):
                raise InputError(f"{row.where}: {row.detail}; it decides where the rows of {path.name} begin")
            count += 1
    return count


def _question_row(number: int, questions: list[SourceRow], rows: epath.Path) -> SourceRow:
    if number >= len(questions):
        raise BadRowError(
            "no such question", f"string {number + 1} of all shards, but there are {len(questions)} rows in {rows}"
        )
    return questions[number]


def _parse_completion(row: SourceRow, marker: str, question: SourceRow | None) -> Iterator[ImportedResponse]:
    if not isinstance(row.value, str):
        raise BadRowError("wrong form", f"expected a completion (a string), found {row.value!r:.60}")
    text = answer_extraction.first_paragraph(row.value)
    parsed = answer_extraction.by_marker(text, marker)
    answer = parsed.answer
    if answer is not None and "(" in answer:
        answer = answer_extraction.single_letter(answer)
    # A completion was truncated if it has no answer and does not continue after a blank line.
    is_complete = parsed.answer is not None or "\n\n" in row.value.lstrip("\n")
    yield row.response(
        text,
        question_id=None if question is None else question.optional("id", str) or question.optional("uid", str),
        question_text=None if question is None else _question_text(question),
        parsed=True,
        rationale=parsed.rationale,
        answer=answer,
        finish_reason="stop" if is_complete else "length",
        model="palm-540b",
    )


def _question_text(question: SourceRow) -> str | None:
    return next((question.optional(name, str) for name in _QUESTION_FIELDS if question.has(name)), None)
