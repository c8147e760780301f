"""What can be read out of a text without knowing its question: <think> blocks, answers by a rule, bare letters."""

import collections
import re
from typing import NamedTuple

from scotd_jax.tasks.prompt_formats import Parsed

THINK_MODES = ("keep", "strip", "rationale")
_BLOCK = re.compile(r"<think>(.*?)</think>", re.DOTALL)


class ThinkingBlock(NamedTuple):
    """A text with a block of thought: what is inside, what comes after, and whether the block was closed."""

    thinking: str
    rest: str
    closed: bool


def find_thinking_block(text: str) -> ThinkingBlock | None:
    """The <think> block of a text, or None. The opening tag may be missing: some chat templates end with it."""
    if "<think>" not in text and "</think>" not in text:
        return None
    if "</think>" not in text:
        before, _, thinking = text.partition("<think>")
        return ThinkingBlock(thinking.strip(), before.strip(), False)
    if "<think>" not in text.partition("</think>")[0]:
        text = f"<think>{text}"
    thinking = "\n".join(part.strip() for part in _BLOCK.findall(text))
    return ThinkingBlock(thinking, _BLOCK.sub("", text).strip(), True)


def by_pattern(text: str, pattern: re.Pattern[str]) -> Parsed:
    """Answer: the group of the last match. Rationale: the text before that match."""
    found = _last(text, pattern)
    if found is None:
        return Parsed(None, None)
    return Parsed(text[: found.start()].strip(), found.group(1))


def by_sentence(text: str, pattern: re.Pattern[str]) -> Parsed:
    """As `by_pattern`, and the rationale ends before the sentence that holds the match ("Thus the answer is")."""
    found = _last(text, pattern)
    if found is None:
        return Parsed(None, None)
    begin = max(text.rfind(mark, 0, found.start()) for mark in ".!?\n") + 1
    return Parsed(text[:begin].strip(), found.group(1))


def _last(text: str, pattern: re.Pattern[str]) -> re.Match[str] | None:
    return next(iter(collections.deque(pattern.finditer(text), maxlen=1)), None)


def by_marker(text: str, marker: str) -> Parsed:
    """Answer: what follows the last marker, without the final period. Rationale: the text before it."""
    rationale, found, answer = text.rpartition(marker)
    if not found:
        return Parsed(None, None)
    return Parsed(rationale.strip(), answer.strip().removesuffix(".").strip())


_LETTER = re.compile(r"\(([A-Za-z])\)")
_ALONE = re.compile(r"\(?([A-Za-z])\)?\s*[.:]?")


def single_letter(text: str) -> str | None:
    """ "(d) math problem" is "(d)": the letter with which an answer begins. "either (a) .. or (e) .." has none."""
    found = _LETTER.match(text.strip())
    return f"({found.group(1).lower()})" if found else None


def bare_letter(text: str) -> str | None:
    """The letter of an answer that is nothing but one: "D", "(d)", "D.", in lower case."""
    found = _ALONE.fullmatch(text.strip())
    return found.group(1).lower() if found else None


def first_paragraph(text: str) -> str:
    """The text up to the first blank line: completions run on into a question that they invent."""
    return text.lstrip("\n").split("\n\n", 1)[0]
