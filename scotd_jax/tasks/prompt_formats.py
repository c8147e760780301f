"""Prompt formats: build the prompt of a question and the target of a rationale and an answer, and parse responses.

The parsing rules are those of SCoTD (arXiv 2306.14050, official code): truncate at the stop string, take the text after
the *last* marker, compare case-insensitively. Without a marker the whole text is the prediction, which is what a
label-only student generates. One rule is added: a prediction that is no valid form of the question's answer gives None
rather than a wrong answer, so that format failures are counted separately.
"""

import dataclasses
import string
from typing import NamedTuple

from scotd_jax.errors import InputError, list_names
from scotd_jax.records import Question, fold_spelling
from scotd_jax.tasks.numeric_answers import is_number, parse_number

MAX_LISTED_ANSWERS = 6  # answers that an instruction lists


class Parsed(NamedTuple):
    """A parsed response.

    Attributes:
      rationale: the reasoning; None if the response has no marker.
      answer: the answer in the question's own form; None if it is no valid form of an answer.
    """

    rationale: str | None
    answer: str | None


@dataclasses.dataclass(frozen=True)
class PromptFormat:
    """Strings around the parts of prompts and targets.

    A prompt is {question_prefix}QUESTION{answer_prefix}. A target is RATIONALE{marker}ANSWER{end}, or ANSWER{end}
    without a rationale. The prompt of a question without text is its context, without prefixes.

    Attributes:
      stops: strings that end a response, besides the end token.
      rationale_prefix: precedes a rationale that is part of a prompt.
      because: precedes a rationale that follows its answer.
      line: replaces every line end.
      instruction: template of a line after the question (tasks/instructions.py); "" for none.
    """

    question_prefix: str
    answer_prefix: str
    marker: str
    end: str = ""
    stops: tuple[str, ...] = ()
    rationale_prefix: str = " "
    because: str = " "
    line: str = "\n"
    instruction: str = ""

    def prompt(self, question: Question) -> str:
        """Returns the prompt for a question."""
        if not question.text:
            return self.question(question)
        return f"{self.question_prefix}{self.question(question)}{self.answer_prefix}"

    def target(self, rationale: str | None, answer: str | None) -> str:
        """Returns the training target: the answer alone without a rationale, the rationale alone without an answer."""
        if answer is None:
            return f"{(rationale or '').strip()}{self.end}"
        if rationale is None:
            return f"{answer}{self.end}"
        return f"{rationale.strip()}{self.marker}{answer}{self.end}"

    def parse(self, text: str, question: Question) -> Parsed:
        """Parses a response; the inverse of `target` for every valid form of the question's answer."""
        text = self.truncate(text)
        rationale, found, answer = text.rpartition(self.marker)
        if not found:
            # If the response begins with the marker, the tokenizer has dropped the marker's leading space.
            bare = self.marker.lstrip()
            if text.startswith(bare):
                rationale, found, answer = "", bare, text[len(bare) :]
        return Parsed(rationale.strip() if found else None, parse_answer(answer, question))

    def parse_answer_first(self, text: str, question: Question) -> Parsed:
        """Parses a response in which the rationale follows the answer."""
        answer, found, rationale = self.truncate(text).partition(self.because)
        return Parsed(rationale.strip() if found else None, parse_answer(answer, question))

    def truncate(self, text: str) -> str:
        """Returns a response up to its first stop string."""
        text = text.lstrip("\n")
        for stop in self.stops:
            text = text.split(stop, 1)[0]
        return text

    def question(self, question: Question) -> str:
        """Returns context, text and instruction of a question, each on a line of its own."""
        instruction = fill_instruction(self.instruction, self.marker.strip(), question) if self.instruction else ""
        return self.lines("\n".join(filter(None, (question.context, question.text, instruction))))

    def paragraph(self, rationale: str) -> str:
        """Returns a rationale with this format's line ends and without stop strings, which would end a target early."""
        for stop in self.stops:
            while stop in rationale:
                rationale = rationale.replace(stop, "\n")
        return self.lines(rationale)

    def lines(self, text: str) -> str:
        """Returns the text with this format's line ends."""
        return text.replace("\n", self.line)


FORMATS = {
    # The format of the official SCoTD code: note the colon of the marker and the blank line that ends a response.
    "scotd": PromptFormat("Q: ", "\nA: ", " So the answer is: ", "\n\n", ("\n\n",), "\nSolution: ", " Because: "),
    # T5's SentencePiece drops newlines, so this format has none; the end token ends a response.
    "t5": PromptFormat(
        "Question: ", " Answer: ", " So the answer is: ", rationale_prefix=" Solution: ", because=" Because: ", line=" "
    ),
    # Turns of a chat: the chat template marks where question and response begin and end.
    "chat": PromptFormat("", "", " So the answer is: ", rationale_prefix="\nSolution: ", because=" Because: "),
    # The embedded world: lower case, all tokens separated by spaces.
    "plain": PromptFormat(
        "question : ", " answer :", " so the answer is ", rationale_prefix=" solution : ", because=" because "
    ),
}


def get_prompt_format(name: str, where: str = "format") -> PromptFormat:
    """Returns a prompt format by name. Raises InputError on an unknown name."""
    if name not in FORMATS:
        raise InputError(f"{where}: {name!r} is not a format; there are {', '.join(FORMATS)}")
    return FORMATS[name]


def fill_instruction(instruction: str, marker: str, question: Question) -> str:
    """Returns the text of an instruction (tasks/instructions.py) for a question."""
    forms = answer_forms(question) or (("NUMBER",) if _has_numeric_answer(question) else ("ANSWER",))
    if len(forms) > MAX_LISTED_ANSWERS:
        forms = (*forms[: MAX_LISTED_ANSWERS - 1], "...")
    sentences = " or ".join(f'"{marker} {form}"' for form in forms)
    return instruction.format(answer_sentence=sentences, answers=" or ".join(forms))


def parse_answer(text: str, question: Question) -> str | None:
    """Returns the answer in the question's own form; None if the text is no valid form of an answer.

    Without choices any non-empty text is an answer, unless the gold answer is a number: then the answer is the number
    that the text contains.
    """
    normalized = fold_spelling(text)
    if _has_numeric_answer(question):
        return parse_number(text)
    if not question.choices:
        return text.strip() if normalized else None
    return {fold_spelling(form): form for form in answer_forms(question)}.get(normalized)


def is_correct(answer: str | None, question: Question) -> bool | None:
    """Compares a parsed answer with the gold answer, ignoring spacing, case and the notation of numbers.

    Returns None if the question has no gold answer.
    """
    if question.answer is None:
        return None
    if answer is not None and _has_numeric_answer(question):
        return parse_number(answer) == parse_number(question.answer)
    return answer is not None and fold_spelling(answer) == fold_spelling(question.answer)


def answer_forms(question: Question) -> tuple[str, ...]:
    """Returns the valid forms of an answer: the texts of the choices, or their letters "(a)", "(b)", ...

    They are letters if the gold answer is one, and both texts and letters if there is no gold answer.
    """
    if question.answer is None:
        return question.choices + choice_letters(len(question.choices))
    return choice_letters(len(question.choices)) if _is_letter(question) else question.choices


def choice_text(question: Question) -> str:
    """Returns the text of the gold choice; without choices, the gold answer itself."""
    if question.answer is None or not _is_letter(question):
        return question.answer or ""
    return question.choices[choice_letters(len(question.choices)).index(fold_spelling(question.answer))]


def choice_with_text(text: str, question: Question) -> str | None:
    """Returns the answer that stands for the choice with this text; None if there is no such choice.

    Some questions list one text twice: the gold choice then takes precedence. Without a gold answer, the answer is a
    letter only if the question lists its choices by letters.
    """
    if not question.choices:
        return parse_answer(text, question)
    normalized = fold_spelling(text)
    if normalized and normalized == fold_spelling(choice_text(question)):
        return question.answer
    letters = choice_letters(len(question.choices))
    has_letters = letters[0] in fold_spelling(question.text) if question.answer is None else _is_letter(question)
    forms = letters if has_letters else question.choices
    # Reversed, so that the first of two equal texts wins.
    return dict(zip(map(fold_spelling, reversed(question.choices)), reversed(forms), strict=True)).get(normalized)


def choice_letters(count: int) -> tuple[str, ...]:
    """Returns ("(a)", "(b)", ...), one per choice."""
    return tuple(f"({letter})" for letter in string.ascii_lowercase[:count])


def check_answer(question: Question, where: str) -> None:
    """Raises InputError if the gold answer is no valid form of the question's answer."""
    if question.answer is None or not question.choices:
        return
    if fold_spelling(question.answer) not in map(fold_spelling, answer_forms(question)):
        raise InputError(
            f"{where}: the answer {question.answer!r:.60} is neither one of the choices "
            f"({list_names(question.choices)}) nor the letter of one, (a) for the first; write it in one of these forms"
        )


def _has_numeric_answer(question: Question) -> bool:
    return not question.choices and question.answer is not None and is_number(question.answer)


def _is_letter(question: Question) -> bool:
    gold = fold_spelling(question.answer or "")
    return gold not in map(fold_spelling, question.choices) and gold in choice_letters(len(question.choices))
