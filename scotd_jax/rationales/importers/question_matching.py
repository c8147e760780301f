"""Which question a row of an imported file belongs to: by id or by the question's text, never by row.

Texts are compared with white space collapsed, in the forms in which question files and prompts write them.
"""

import re
from collections.abc import Iterator, Mapping

from scotd_jax.rationales.importers.imported import BadRowError, ImportedResponse
from scotd_jax.records import Question
from scotd_jax.tasks.base import LoadedTask
from scotd_jax.tasks.prompt_formats import choice_letters

_OPENING = re.compile(r"(?:Q|Question|question) ?: ")
_CLOSING = re.compile(r" (?:A|Answer|answer) ?:$")
_LABEL = re.compile(r"\s*\(?[A-Za-z0-9][).:]$")
_HEADING = re.compile(r"\s*(?:answer |possible )?(?:choices|options):?$", re.IGNORECASE)

NO_QUESTION = "no such question"


class Matcher:
    """Finds questions among those of a config. Of several with equal text the first takes the responses."""

    def __init__(self, asked: Mapping[str, tuple[Question, LoadedTask]], prompt: str = "{question}"):
        """`prompt` is what stands around a question in the prompts of the files."""
        self._asked = asked
        self._before, _, self._after = (tidy(part) for part in prompt.partition("{question}"))
        self._ids: dict[str, str | None] = {}
        for id_ in asked:
            for alias in _aliases(id_):
                self._ids[alias] = None if alias in self._ids else id_
        self._ids |= {id_: id_ for id_ in asked}
        self._texts: dict[str, str] = {}
        for id_, (question, _) in asked.items():
            self._texts.setdefault(tidy(question.text), id_)
        self._more: dict[str, str | None] | None = None

    def find(self, said: ImportedResponse) -> str:
        """The id of the row's question. Raises BadRowError where there is none, or where id and text name two."""
        by_id = None if said.question_id is None else self._ids.get(said.question_id)
        by_text = None if said.question_text is None else self.by_text(said.question_text)
        if by_id and by_text and not self._same(by_id, by_text):
            raise BadRowError(
                "wrong id", f"the id {said.question_id!r} is that of {by_id!r}, but the text that of {by_text!r}"
            )
        if found := by_id or by_text:
            return found
        if said.question_id is not None and said.question_id in self._ids:
            raise BadRowError(NO_QUESTION, f"several of the config's questions have the id {said.question_id!r}")
        names = [] if said.question_id is None else [f"the id {said.question_id!r}"]
        names += [] if said.question_text is None else [f"the text {tidy(said.question_text)[:100]!r}"]
        raise BadRowError(NO_QUESTION, f"none of the config's {len(self._asked)} questions has {' or '.join(names)}")

    def by_text(self, text: str) -> str | None:
        """The question of a text, or of a prompt that asks it."""
        bare = tidy(text)
        if self._before and bare.startswith(self._before):
            bare = bare.removeprefix(self._before).lstrip()
        if self._after and bare.endswith(self._after):
            bare = bare.removesuffix(self._after).rstrip()
        for form in (bare, _CLOSING.sub("", _OPENING.sub("", bare, count=1) if _OPENING.match(bare) else bare)):
            if form in self._texts:
                return self._texts[form]
            if self._more is None:
                self._more = dict(self._other_forms())
            if self._more.get(form):
                return self._more[form]
        return None

    def _same(self, one: str, other: str) -> bool:
        return tidy(self._asked[one][0].text) == tidy(self._asked[other][0].text)

    def _other_forms(self) -> dict[str, str | None]:
        """Made only when a row is not in the task's own words: it takes the memory of several copies of all texts."""
        forms: dict[str, str | None] = {}
        stems: dict[str, str | None] = {}
        for id_, (question, task) in self._asked.items():
            forms.setdefault(tidy(task.format.prompt(question)), id_)
            if question.context:
                forms.setdefault(tidy(f"{question.context} {question.text}"), id_)
            stem = stem_of(question)
            if stem is None:
                continue
            for form in layouts(stem, question.choices):
                forms.setdefault(form, id_)
            # A stem alone is no name where two different questions share it.
            first = stems.setdefault(stem, id_)
            if first is not None and not self._same(first, id_):
                stems[stem] = None
        return stems | forms


def layouts(stem: str, choices: tuple[str, ...]) -> Iterator[str]:
    """Ways in which a question with choices is written, white space collapsed."""
    small = choice_letters(len(choices))
    large = tuple(letter.upper() for letter in small)
    for labels in (small, large):
        options = " ".join(f"{label} {text}" for label, text in zip(labels, choices, strict=True))
        yield f"{stem} {options}"
        yield f"{stem} Answer Choices: {options}"
    pairs = [f"{label.strip('()')}: {text}" for label, text in zip(large, choices, strict=True)]
    yield f"{stem} Answer choices: {', '.join(pairs)}"  # openbookqa_multi


def stem_of(question: Question) -> str | None:
    """The question without its choices at the end, in whichever layout; None if they are not there."""
    text = tidy(question.text)
    if not question.choices:
        return None
    for choice in reversed(question.choices):
        text = text.rstrip(" ,;.")
        choice = tidy(choice).rstrip(" ,;.")
        if not text.endswith(choice):
            return None
        text = text[: len(text) - len(choice)].rstrip()
        text = _LABEL.sub("", text)
    return _HEADING.sub("", text).rstrip()


def tidy(text: str) -> str:
    return " ".join(text.split())


def _aliases(id_: str) -> Iterator[str]:
    """Of "task/split/name": "name" and "task/name"."""
    task, *rest = id_.split("/", 2)
    if len(rest) == 2:
        yield rest[1]
        yield f"{task}/{rest[1]}"
