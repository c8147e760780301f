"""Truncation of long questions, such as the reviews of IMDb, which SCoTD truncates at 700 tokens.

A question is truncated where it is loaded, so that teacher and students read the same text. It gets the tag
"truncated", so evaluations report the number of truncated questions and the accuracy on them.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable

from scotd_jax import config
from scotd_jax.errors import InputError
from scotd_jax.records import Question

TAG = "truncated"

TokenEnds = Callable[[str], list[int]]  # returns where every token of a text ends, in characters from its start


def truncate_questions(questions: Iterable[Question], task: config.Task, where: str) -> tuple[Question, ...]:
    """Shortens all questions with more than `Task.max_tokens` tokens, if this limit is set.

    Args:
      questions: questions of one task.
      task: its config entry.
      where: config path of the entry, for messages.

    Raises:
      InputError: if the tokenizer cannot be loaded, or the text of a question with a passage is too long by itself.
    """
    if not task.max_tokens:
        return tuple(questions)
    token_ends = _token_ends(task.tokenizer)
    return tuple(truncate_question(question, task.max_tokens, token_ends, where) for question in questions)


def truncate_question(question: Question, max_tokens: int, token_ends: TokenEnds, where: str) -> Question:
    """Shortens a question to `max_tokens` tokens: its passage at the end or, without a passage, its text.

    Returns:
      The question itself if it is short enough, else a shorter one with the tag `TAG`.

    Raises:
      InputError: if the text of a question with a passage is too long by itself.
    """
    field = "context" if question.context else "text"
    complete = getattr(question, field)
    ends = token_ends(complete)
    available = max_tokens - (len(token_ends(question.text)) if question.context else 0)
    if len(ends) <= available:
        return question
    if available < 1:
        raise InputError(
            f"{where}.max_tokens: the text of question {question.id!r} has {max_tokens - available} tokens without its "
            f"passage, expected less than {max_tokens}; raise max_tokens"
        )
    shortened = complete[: ends[available - 1]].rstrip()
    return dataclasses.replace(question, **{field: shortened}, tags=(*question.tags, TAG))


def _token_ends(tokenizer: str) -> TokenEnds:
    """A function that finds the tokens of a tokenizer, or words without one."""
    if not tokenizer:
        return lambda text: [match.end() for match in re.finditer(r"\S+", text)]
    from scotd_jax.tokenization import Tokenizer

    return Tokenizer.load(tokenizer).token_ends
