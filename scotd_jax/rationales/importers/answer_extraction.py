"""Parses completions without their question: <think> blocks, answers after a sentence or a marker, choice letters."""

import re
from typing import NamedTuple

from scotd_jax.tasks.answer_patterns import last_match
from scotd_jax.tasks.prompt_formats import Parsed

THINK_MODES = ("keep", "strip", "rationale")
_BLOCK = re.compile(r"<think>(.*?)</think>", re.DOTALL)


class ThinkingBlock(NamedTuple):
    """A completion split at its <think> block.

    Attributes:
      thinking: text inside the block; several blocks are joined by line ends.
      rest: text outside.
      closed: False if the completion was truncated inside the block.
    """

    thinking: str
    rest: str
    closed: bool


def find_thinking_block(text: str) -> ThinkingBlock | None:
    """Returns the <think> block of a completion, or None if there is none.

    The opening tag may be missing, because some chat templates put it at the end of the prompt.
    """
    if "<think>" not in text and "</think>" not in text:
        return None
    if "</think>" not in text:
        before, _, thinking = text.partition("<think>")
        return ThinkingBlock(thinking.strip(), before.strip(), False)
    if "<think>" not in text.partition("</think>")[0]:
        text = f"<think>{text}"
    thinking = "\n".join(block.strip() for block in _BLOCK.findall(text))
    return ThinkingBlock(thinking, _BLOCK.sub("", text).strip(), True)


def by_sentence(text: str, pattern: re.Pattern[str]) -> Parsed:
    """Parses by a pattern as `parse_by_pattern` does, but ends the rationale before the sentence of the match.

    The introduction of the answer ("Thus the answer is") is therefore not part of the rationale.
    """
    match = last_match(text, pattern)
    if match is None:
        return Parsed(None, None)
    begin = max(text.rfind(mark, 0, match.start()) for mark in ".!?\n") + 1
    return Parsed(text[:begin].strip(), match.group(1))


def by_marker(text: str, marker: str) -> Parsed:
    """Parses by a marker: the answer follows its last occurrence, without a final period; the rationale precedes it."""
    rationale, found, answer = text.rpartition(marker)
    if not found:
        return Parsed(None, None)
    return Parsed(rationale.strip(), answer.strip().removesuffix(".").strip())


_LETTER = re.compile(r"\(([A-Za-z])\)")


def single_letter(text: str) -> str | None:
    """Returns the letter in parentheses at the start of an answer: "(d)" for "(d) math problem".

    Returns None if the answer begins otherwise, as in "either (a) .. or (e) ..".
    """
    match = _LETTER.match(text.strip())
    return f"({match.group(1).lower()})" if match else None


def first_paragraph(text: str) -> str:
    """Returns the text up to the first blank line, after which completions continue with an invented question."""
    return text.lstrip("\n").split("\n\n", 1)[0]
