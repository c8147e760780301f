"""How a question is written as a prompt, a rationale and an answer as a target, and how a response is read back.

The rules of parsing are SCoTD's (arXiv 2306.14050, official code): cut at the stop string, take what follows the
*last* marker, compare without regard to case. Where the marker is missing the whole text is the prediction, which is
what a label-only student prints. One rule is ours: a prediction that is none of the forms in which the question's
answer may be printed is no answer (None) rather than a wrong one, so that format failures can be counted.
"""

import dataclasses
import string
from typing import NamedTuple

from scotd_jax.errors import InputError
from scotd_jax.records import Question
from scotd_jax.tasks.numeric_answers import is_number, parse_number


class Parsed(NamedTuple):
    """What a response says: `rationale` None without a marker, `answer` None if it is no form of an answer."""

    rationale: str | None
    answer: str | None


@dataclasses.dataclass(frozen=True)
class PromptFormat:
    """Prompt: `question_prefix` text `answer_prefix`. Target: rationale `marker` answer `end`, or answer `end`.

    `stops` are the strings that end a response besides the end token. `rationale_prefix` comes before a rationale that
    is part of a prompt, `because` before one that follows its answer; `line` is what a line end becomes. A question
    with an empty text asks nothing: its prompt is its context alone, to be continued as it stands.
    """

    question_prefix: str
    answer_prefix: str
    marker: str
    end: str = ""
    stops: tuple[str, ...] = ()
    rationale_prefix: str = " "
    because: str = " "
    line: str = "\n"

    def question(self, question: Question) -> str:
        """The question as text. A context comes before it, on a line of its own."""
        return self.lines(f"{question.context}\n{question.text}" if question.context else question.text)

    def lines(self, text: str) -> str:
        """The text with this format's line ends."""
        return text.replace("\n", self.line)

    def prompt(self, question: Question) -> str:
        """The text that a model is given."""
        if not question.text:
            return self.lines(question.context or "")
        return f"{self.question_prefix}{self.question(question)}{self.answer_prefix}"

    def target(self, rationale: str | None, answer: str | None) -> str:
        """The text that a model is to say; without a rationale the label alone, without an answer plain text."""
        if answer is None:
            return f"{(rationale or '').strip()}{self.end}"
        if rationale is None:
            return f"{answer}{self.end}"
        return f"{rationale.strip()}{self.marker}{answer}{self.end}"

    def cut(self, text: str) -> str:
        """A response up to where it ends."""
        text = text.lstrip("\n")
        for stop in self.stops:
            text = text.split(stop, 1)[0]
        return text

    def parse_answer_first(self, text: str, question: Question) -> Parsed:
        """Reads a response that gives its reasons after the answer."""
        answer, found, rationale = self.cut(text).partition(self.because)
        return Parsed(rationale.strip() if found else None, parse_answer(answer, question))

    def parse(self, text: str, question: Question) -> Parsed:
        """Reads a response back; the inverse of `target` for every answer that is a form of the question's."""
        text = self.cut(text)
        rationale, found, answer = text.rpartition(self.marker)
        if not found:
            # A response that begins with the marker has lost the marker's leading blank to the tokenizer.
            bare = self.marker.lstrip()
            if text.startswith(bare):
                rationale, found, answer = "", bare, text[len(bare) :]
        return Parsed(rationale.strip() if found else None, parse_answer(answer, question))


def parse_answer(text: str, question: Question) -> str | None:
    """The form of an answer that `text` is, as the question writes it; None if it is none of them.

    A question without choices takes any text that is not empty, or, where its answer is a number, the number that the
    text states.
    """
    said = _normal(text)
    if _asks_number(question):
        return parse_number(text)
    if not question.choices:
        return text.strip() if said else None
    return {_normal(form): form for form in answer_forms(question)}.get(said)


def answer_forms(question: Question) -> tuple[str, ...]:
    """The forms in which an answer may be printed: the choices themselves, or their letters "(a)", "(b)", ...

    Letters are meant where the gold answer is one of them, and where there is no gold answer both are.
    """
    if question.answer is None:
        return question.choices + letters(len(question.choices))
    return letters(len(question.choices)) if _is_letter(question) else question.choices


def choice_text(question: Question) -> str:
    """The text of the choice that is the gold answer; where there are no choices, the answer itself."""
    if question.answer is None or not _is_letter(question):
        return question.answer or ""
    return question.choices[letters(len(question.choices)).index(_normal(question.answer))]


def choice_of(text: str, question: Question) -> str | None:
    """The form of an answer whose choice has the text `text`; None if no choice has.

    Some questions list one text twice: the gold answer then counts before the other.
    """
    if not question.choices:
        return parse_answer(text, question)
    said = _normal(text)
    if said and said == _normal(choice_text(question)):
        return question.answer
    return dict(zip(map(_normal, reversed(question.choices)), reversed(answer_forms(question)), strict=False)).get(said)


def letters(count: int) -> tuple[str, ...]:
    """("(a)", "(b)", ...), one per choice."""
    return tuple(f"({letter})" for letter in string.ascii_lowercase[:count])


def is_correct(answer: str | None, question: Question) -> bool | None:
    """Whether a parsed answer is the gold one, however it is spaced, capitalised or, as a number, written.

    None without a gold answer.
    """
    if question.answer is None:
        return None
    if answer is not None and _asks_number(question):
        return parse_number(answer) == parse_number(question.answer)
    return answer is not None and _normal(answer) == _normal(question.answer)


def check_answer(question: Question, where: str) -> None:
    """Raises InputError if the gold answer is not a form in which the question's answer may be printed."""
    if question.answer is None or not question.choices:
        return
    if _normal(question.answer) not in map(_normal, answer_forms(question)):
        options = ", ".join(question.choices)
        raise InputError(
            f"{where}: the answer {question.answer!r} is neither one of the choices ({options}) nor the letter of one, "
            "(a) for the first; write it in one of these forms"
        )


def _asks_number(question: Question) -> bool:
    return not question.choices and question.answer is not None and is_number(question.answer)


def _is_letter(question: Question) -> bool:
    gold = _normal(question.answer or "")
    return gold not in map(_normal, question.choices) and gold in letters(len(question.choices))


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()


FORMATS = {
    # The format of the official SCoTD code: note the colon of the marker and the blank line that ends a response.
    "scotd": PromptFormat("Q: ", "\nA: ", " So the answer is: ", "\n\n", ("\n\n",), "\nSolution: ", " Because: "),
    # T5's SentencePiece drops newlines, so nothing depends on one; the end token ends a response.
    "t5": PromptFormat(
        "Question: ", " Answer: ", " So the answer is: ", rationale_prefix=" Solution: ", because=" Because: ", line=" "
    ),
    # The embedded world: lower case, blanks between all tokens.
    "plain": PromptFormat(
        "question : ", " answer :", " so the answer is ", rationale_prefix=" solution : ", because=" because "
    ),
}


def get_prompt_format(name: str, where: str = "format") -> PromptFormat:
    """A format by name. Raises InputError on an unknown one."""
    if name not in FORMATS:
        raise InputError(f"{where}: {name!r} is not a format; there are {', '.join(FORMATS)}")
    return FORMATS[name]
