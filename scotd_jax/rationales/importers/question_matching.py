"""Matching of imported rows to questions: by id or by the text of the question, never by the order of the rows.

Texts are compared with white space collapsed, in all forms that occur in question files and prompts.
"""

import re
from collections.abc import Iterator, Sequence

from scotd_jax.rationales.importers.imported import BadRowError, ImportedResponse
from scotd_jax.records import Question
from scotd_jax.tasks.prompt_formats import choice_letters
from scotd_jax.tasks.question_loader import QuestionsById

_OPENING = re.compile(r"(?:Q|Question|question) ?: ")
_CLOSING = re.compile(r" (?:A|Answer|answer) ?:$")
_LABEL = re.compile(r"\s*\(?[A-Za-z0-9][).:]$")
_HEADING = re.compile(r"\s*(?:answer |possible )?(?:choices|options):?$", re.IGNORECASE)

NO_QUESTION = "no such question"  # reason of rows that match no question


class QuestionMatcher:
    """Finds the question of a row. If several questions have the same text, the first one is found."""

    def __init__(self, questions: QuestionsById, prompt: str = "{question}"):
        """Indexes the questions.

        Args:
          questions: the questions of the config.
          prompt: the prompt in the files, with "{question}" in place of the question.
        """
        self._questions = questions
        self._before, _, self._after = (collapse_spaces(part) for part in prompt.partition("{question}"))
        self._ids: dict[str, str | None] = {}  # id or alias -> id; None if the alias is ambiguous
        for id_ in questions:
            for alias in _aliases(id_):
                self._ids[alias] = None if alias in self._ids else id_
        self._ids |= {id_: id_ for id_ in questions}
        self._texts: dict[str, str] = {}
        for id_, (question, _) in questions.items():
            self._texts.setdefault(collapse_spaces(question.text), id_)
        self._other_forms: dict[str, str | None] | None = None

    def find(self, row: ImportedResponse) -> str:
        """Returns the id of the row's question.

        Raises:
          BadRowError: if there is no such question, or id and text belong to two questions.
        """
        by_id = None if row.question_id is None else self._ids.get(row.question_id)
        by_text = None if row.question_text is None else self._find_text(row.question_text)
        if by_id and by_text and not self._have_same_text(by_id, by_text):
            raise BadRowError(
                "wrong id", f"the id {row.question_id!r} belongs to {by_id!r}, but the text belongs to {by_text!r}"
            )
        if found := by_id or by_text:
            return found
        if row.question_id is not None and row.question_id in self._ids:
            raise BadRowError(NO_QUESTION, f"several of the config's questions have the id {row.question_id!r}")
        names = [] if row.question_id is None else [f"the id {row.question_id!r}"]
        names += [] if row.question_text is None else [f"the text {collapse_spaces(row.question_text)[:100]!r}"]
        expected = " or ".join(names)
        raise BadRowError(NO_QUESTION, f"none of the config's {len(self._questions)} questions has {expected}")

    def _find_text(self, text: str) -> str | None:
        """Returns the id of the question with this text, or of the question that a prompt contains."""
        bare = collapse_spaces(text)
        if self._before and bare.startswith(self._before):
            bare = bare.removeprefix(self._before).lstrip()
        if self._after and bare.endswith(self._after):
            bare = bare.removesuffix(self._after).rstrip()
        without_opening = _OPENING.sub("", bare, count=1) if _OPENING.match(bare) else bare
        for form in (bare, _CLOSING.sub("", without_opening)):
            if form in self._texts:
                return self._texts[form]
            if self._other_forms is None:
                # Built only if a row does not have the task's own text, as it takes as much memory as several copies of
                # all questions.
                self._other_forms = self._build_other_forms()
            if self._other_forms.get(form):
                return self._other_forms[form]
        return None

    def _have_same_text(self, one: str, other: str) -> bool:
        return collapse_spaces(self._questions[one][0].text) == collapse_spaces(self._questions[other][0].text)

    def _build_other_forms(self) -> dict[str, str | None]:
        """Returns ids by other forms of a question: prompt, context and text, other choice layouts, stem alone."""
        forms: dict[str, str | None] = {}
        stems: dict[str, str | None] = {}
        for id_, (question, task) in self._questions.items():
            forms.setdefault(collapse_spaces(task.format.prompt(question)), id_)
            if question.context:
                forms.setdefault(collapse_spaces(f"{question.context} {question.text}"), id_)
            stem = question_stem(question)
            if stem is None:
                continue
            for form in choice_layouts(stem, question.choices):
                forms.setdefault(form, id_)
            # A stem that two different questions share identifies neither.
            first = stems.setdefault(stem, id_)
            if first is not None and not self._have_same_text(first, id_):
                stems[stem] = None
        return stems | forms


def choice_layouts(stem: str, choices: Sequence[str]) -> Iterator[str]:
    """Yields the text of a question with choices in all layouts that occur in files, white space collapsed."""
    lower = choice_letters(len(choices))
    upper = tuple(letter.upper() for letter in lower)
    for labels in (lower, upper):
        options = " ".join(f"{label} {text}" for label, text in zip(labels, choices, strict=True))
        yield f"{stem} {options}"
        yield f"{stem} Answer Choices: {options}"
    pairs = [f"{label.strip('()')}: {text}" for label, text in zip(upper, choices, strict=True)]
    yield f"{stem} Answer choices: {', '.join(pairs)}"  # openbookqa_multi


def question_stem(question: Question) -> str | None:
    """Returns a question without the choices at its end, whatever their layout; None if it does not end with them."""
    text = collapse_spaces(question.text)
    if not question.choices:
        return None
    for choice in reversed(question.choices):
        text = text.rstrip(" ,;.")
        choice = collapse_spaces(choice).rstrip(" ,;.")
        if not text.endswith(choice):
            return None
        text = text[: len(text) - len(choice)].rstrip()
        text = _LABEL.sub("", text)
    return _HEADING.sub("", text).rstrip()


def collapse_spaces(text: str) -> str:
    """Replaces each run of white space by one blank."""
    return " ".join(text.split())


def _aliases(id_: str) -> Iterator[str]:
    """Short forms of an id: "name" and "task/name" for "task/split/name"."""
    task, *rest = id_.split("/", 2)
    if len(rest) == 2:
        yield rest[1]
        yield f"{task}/{rest[1]}"
