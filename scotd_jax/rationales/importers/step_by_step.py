"""Distilling step-by-step (arXiv 2305.02301): raw completions of PaLM-540B, one per question, joined to rows.

The prediction files SPLIT_CoT_0.json, ... are JSON lists of strings and name no question: string k belongs to row k of
the JSON lines that were released with them, or of a file of ids. That order is not the order of the official data
sets, so a join to those by row would be silently wrong; nothing here offers it.
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
_INPUTS = ("input", "question")


def commonsenseqa_palm540b(path: epath.Path, options: ImportOptions) -> ImportResults:
    """CommonsenseQA: cut at the first blank line, then the single letter that directly follows "So the answer is".

    "either (a) .. or (e) .." has no such letter and is no answer; "(a) ocean or (b) sea" is (a). Joined by the option
    "ids", by default the file SPLIT_ids.txt beside SPLIT_CoT_k.json(.gz): one id per string, over all shards.
    """
    del options
    return parse_rows(read_json_document(path, list), lambda row: _completion(row, MARKER, None))


def default_ids(path: epath.Path) -> epath.Path | None:
    """SPLIT_ids.txt beside SPLIT_CoT_k.json, if there is one."""
    found = _SHARD.fullmatch(path.name)
    ids = path.parent / f"{found['split']}_ids.txt" if found else None
    return ids if ids is not None and ids.exists() else None


def distilling_step_by_step(path: epath.Path, options: ImportOptions) -> ImportResults:
    """Prediction files beside their rows, as they were released: NAME/llm/SPLIT_CoT_k.json and NAME/NAME_SPLIT.json.

    Options: "rows", the file of JSON lines, if it lies elsewhere; "marker" before the answer ("So the answer is"; it
    is "The answer is" in SVAMP and ASDiv, "Answer:" in e-SNLI). A row's "id" or "uid" names the question, or else its
    text. Shards must begin with 0 and leave out none, for their strings count on.
    """
    rows = _rows(path, options)
    marker = options.get("marker", MARKER)
    begin = _strings_before(path)
    return parse_rows(
        read_json_document(path, list), lambda row: _completion(row, marker, _row_of(row, rows, begin, path))
    )


def rows_file(path: epath.Path, options: ImportOptions) -> list[epath.Path]:
    """The file of rows that belongs to a prediction file. Raises InputError if it cannot be told."""
    if options.get("rows"):
        return [epath.Path(options["rows"])]
    found = _SHARD.fullmatch(path.name)
    name = path.parent.parent.name
    rows = path.parent.parent / f"{name}_{found['split']}.json" if found else None
    if rows is None or not rows.exists():
        raise InputError(
            f"{path}: its strings name no question, and {rows or 'NAME_SPLIT.json'} is not there to tell them; "
            "give the option 'rows': JSON lines, one per string"
        )
    return [rows]


def _rows(path: epath.Path, options: ImportOptions) -> list[SourceRow]:
    rows = []
    for row in read_json_lines(rows_file(path, options)[0]):
        if isinstance(row, BadRow):
            raise InputError(f"{row.where}: {row.detail}")
        rows.append(row)
    return rows


def _strings_before(path: epath.Path) -> int:
    """How many strings the shards before this one hold. Raises InputError if one is missing or broken."""
    found = _SHARD.fullmatch(path.name)
    if not found:
        return 0
    shards = {
        int(m["shard"]): p
        for p in path.parent.iterdir()
        if (m := _SHARD.fullmatch(p.name)) and m["split"] == found["split"]
    }
    count = 0
    for number in range(int(found["shard"])):
        if number not in shards:
            raise InputError(
                f"{path.parent / found['split']}_CoT_{number}.json is missing: the rows of {path.name} count on from it"
            )
        for row in read_json_document(shards[number], list):
            if isinstance(row, BadRow):
                raise InputError(f"{row.where}: {row.detail}; the rows of {path.name} count on from it")
            count += 1
    return count


def _row_of(row: SourceRow, rows: list[SourceRow], begin: int, path: epath.Path) -> SourceRow:
    number = begin + row.number
    if number >= len(rows):
        raise BadRowError(
            "no such question", f"string {number + 1} of all shards, but there are {len(rows)} rows in {path}"
        )
    return rows[number]


def _completion(row: SourceRow, marker: str, about: SourceRow | None) -> Iterator[ImportedResponse]:
    if not isinstance(row.value, str):
        raise BadRowError("wrong form", f"expected a completion (a string), found {row.value!r:.60}")
    text = answer_extraction.first_paragraph(row.value)
    read = answer_extraction.by_marker(text, marker)
    answer = read.answer
    if answer is not None and "(" in answer:
        answer = answer_extraction.single_letter(answer)
    yield row.response(
        text,
        question_id=None if about is None else about.optional("id", str) or about.optional("uid", str),
        question_text=None if about is None else _question(about),
        parsed=True,
        rationale=read.rationale,
        answer=answer,
        # What neither goes on after a blank line nor has come to an answer was cut off.
        finish_reason="stop" if read.answer is not None or "\n\n" in row.value.lstrip("\n") else "length",
        model="palm-540b",
    )


def _question(about: SourceRow) -> str | None:
    return next((about.optional(name, str) for name in _INPUTS if about.has(name)), None)
