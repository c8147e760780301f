"""Answer patterns: parse responses by a regular expression in place of the prompt format.

The same pattern serves models, servers, batch files and imported files: its last match is the answer, and the text
before it is the rationale. Answers are read in all forms that are unambiguous, for example "D." for the fourth choice.
"""

import collections
import re

from scotd_jax.records import Question, fold_spelling
from scotd_jax.tasks.prompt_formats import Parsed, choice_letters, parse_answer

_ALONE = re.compile(r"\(?([A-Za-z])\)?\s*[.:]?")
_LABELLED = re.compile(r"\(?([a-z])[).:] *(.+)")  # "(b) a stone"
_LETTER = re.compile(r"\(([a-z])\)")
_CLAUSE_END = re.compile(r"[.,;][\"'*_`]*(?:\s|$)")
_QUOTES = r"[\"'*_`]*"
_ANSWER_IS = r"\b(?:the\s+)?(?:(?:correct|right|best|final)\s+)?answer\s*(?:is\b\s*:?|:)"
# An answer phrase and the rest of its line, which is the answer; it contains no second phrase.
_SENTENCE = re.compile(
    rf"{_QUOTES}(?:\bso,?\s+)?{_ANSWER_IS}\s*{_QUOTES}((?:(?!{_ANSWER_IS})[^\n])*?)[\s.]*{_QUOTES}[\s.]*$",
    re.IGNORECASE | re.MULTILINE,
)


def parse_by_pattern(text: str, pattern: re.Pattern[str]) -> Parsed:
    """Parses by a pattern: the answer is the group of its last match, the rationale the text before that match."""
    match = last_match(text, pattern)
    if match is None:
        return Parsed(None, None)
    return Parsed(text[: match.start()].strip(), match.group(1))


def last_match(text: str, pattern: re.Pattern[str]) -> re.Match[str] | None:
    """Returns the last match of a pattern, or None."""
    return next(iter(collections.deque(pattern.finditer(text), maxlen=1)), None)


def parse_chat(text: str, question: Question) -> Parsed:
    """Parses the answer sentence of a chat model, which words it freely.

    The sentence begins at the last "the answer is" or "answer:" of the text; adjectives ("correct"), capitals, quotes
    and emphasis may vary. Text after a comma or period behind the answer is ignored, but a sentence that names several
    choices is no answer.
    """
    rationale, sentence = parse_by_pattern(text, _SENTENCE)
    if sentence is None or len(set(_LETTER.findall(sentence.lower()))) > 1:
        return Parsed(rationale, None)
    answers = (normalize_answer(part, question) for part in (sentence, _CLAUSE_END.split(sentence)[0]))
    return Parsed(rationale, next((answer for answer in answers if answer is not None), None))


def normalize_answer(answer: str, question: Question) -> str | None:
    """Returns an answer in the form of the question's gold answers, or None if it is no answer to the question.

    "D", "(d)" and "(d) TEXT" stand for the fourth choice if TEXT is its text. A text alone stands for a choice if
    exactly one choice has it. All of these are accepted, whether the gold answers are letters or texts.
    """
    form = parse_answer(answer, question)
    if form is not None or not question.choices:
        return form
    index = _choice_index(answer, question)
    if index is None:
        return None
    label = choice_letters(len(question.choices))[index]
    return parse_answer(label, question) or parse_answer(question.choices[index], question)


def _choice_index(answer: str, question: Question) -> int | None:
    """The choice that an answer names by its letter, its text, or both."""
    labels = choice_letters(len(question.choices))
    choices, text = [fold_spelling(choice) for choice in question.choices], fold_spelling(answer)
    if (letter := bare_letter(text)) and f"({letter})" in labels:
        return labels.index(f"({letter})")
    if text in choices:
        return choices.index(text) if choices.count(text) == 1 else None
    labelled = _LABELLED.fullmatch(text)
    if labelled and f"({labelled[1]})" in labels and choices[labels.index(f"({labelled[1]})")] == labelled[2]:
        return labels.index(f"({labelled[1]})")
    return None


def bare_letter(text: str) -> str | None:
    """Returns the letter, in lower case, of an answer that is only a letter: "D", "(d)" or "D."."""
    match = _ALONE.fullmatch(text.strip())
    return match.group(1).lower() if match else None
