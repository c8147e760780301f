"""Parses rationale and answer of imported rows, by an answer pattern or by the task's prompt format."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from scotd_jax.errors import InputError
from scotd_jax.rationales.importers import answer_extraction
from scotd_jax.rationales.importers.imported import BadRowError, ImportedResponse
from scotd_jax.records import Question
from scotd_jax.tasks.answer_patterns import normalize_answer, parse_by_pattern
from scotd_jax.tasks.base import LoadedTask
from scotd_jax.tasks.prompt_formats import Parsed


class RowParser:
    """Parses the rows of one import."""

    def __init__(self, options: Mapping[str, Any], answer_pattern: str):
        """Creates a parser.

        Args:
          options: options of the import.
          answer_pattern: regular expression that replaces the task's prompt format; "" for none.
        """
        self._options, self._pattern = options, re.compile(answer_pattern) if answer_pattern else None
        self._answers: dict[tuple[str, str], str | None] = {}

    def parse(self, row: ImportedResponse, question: Question, task: LoadedTask) -> ImportedResponse:
        """Returns the row with rationale and answer; the option "think" may remove its thinking block.

        A response truncated inside a block has neither rationale nor answer.

        Raises:
          BadRowError: if the response is empty.
          InputError: if it has a block and the option "think" is not set.
        """
        _check_not_empty(row)
        if row.text is None or row.parsed:
            return self._without_block_in_rationale(row)
        block = self._removed_block(row.where, row.text)
        if block is not None and not block.closed:
            return dataclasses.replace(row, rationale=None, answer=None, finish_reason="length")
        text = row.text if block is None else block.rest
        if self._pattern is not None:
            parsed = parse_by_pattern(text, self._pattern)
        else:
            parsed = task.format.parse(text, question)
            if parsed.answer is None and row.answer is not None:
                parsed = Parsed(row.rationale, row.answer)
        if block is not None and self._options["think"] == "rationale":
            return dataclasses.replace(row, rationale=block.thinking, answer=parsed.answer)
        return dataclasses.replace(row, text=text, rationale=parsed.rationale, answer=parsed.answer)

    def answer_in_form(self, answer: str | None, question: Question) -> str | None:
        """Returns `normalize_answer` of an answer, cached because many responses have the same answer."""
        if answer is None:
            return None
        key = question.id, answer
        if key not in self._answers:
            self._answers[key] = normalize_answer(answer, question)
        return self._answers[key]

    def _without_block_in_rationale(self, row: ImportedResponse) -> ImportedResponse:
        block = self._removed_block(row.where, row.rationale or "")
        if block is None:
            return row
        use_thinking = self._options["think"] == "rationale" or not block.closed
        return dataclasses.replace(row, rationale=block.thinking if use_thinking else block.rest)

    def _removed_block(self, where: str, text: str) -> answer_extraction.ThinkingBlock | None:
        """Returns the thinking block to remove from a text; None if there is none or the option "think" keeps it."""
        block = answer_extraction.find_thinking_block(text)
        if block is not None and "think" not in self._options:
            raise InputError(
                f"{where}: holds a <think> block; choose what to do with it by the option 'think': 'keep' leaves "
                "it in the text, 'strip' removes it, 'rationale' takes what is inside as the rationale"
            )
        return None if self._options.get("think") == "keep" else block


def _check_not_empty(row: ImportedResponse) -> None:
    if row.text is not None and not row.text.strip():
        raise BadRowError("empty text", "the response is empty; expected a rationale and an answer")
    if row.text is None and not (row.rationale or "").strip():
        raise BadRowError("empty rationale", "the rationale is empty; expected a text")
