"""What a task is: named splits of questions, optionally with rationales of its own, and a format to ask them in."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from scotd_jax.errors import InputError
from scotd_jax.records import Question, Response
from scotd_jax.tasks.prompt_formats import PromptFormat


@runtime_checkable
class LoadedTask(Protocol):
    """Where questions come from. Every split is a list in a fixed order, the same in every process."""

    name: str
    format: PromptFormat

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that `questions` knows."""
        ...

    def questions(self, split: str) -> list[Question]:
        """All questions of one split. Raises InputError on an unknown split."""
        ...

    def gold(self, split: str) -> list[Response]:
        """The task's own responses to a split; empty where it has none."""
        ...

    def texts(self) -> Iterator[str]:
        """Texts from which a tokenizer for this task can be trained: prompts and targets in the task's format."""
        ...


SplitLoader = Callable[[], tuple[list[Question], list[Response]]]


class SplitTask:
    """A task whose splits are loaded when they are first asked for, each by a function of its own.

    `loaders[split]()` returns the split's questions and its gold responses. `limit` keeps the first questions of
    every split (0: all) and the responses to them.
    """

    def __init__(self, name: str, prompt_format: PromptFormat, loaders: Mapping[str, SplitLoader], limit: int = 0):
        self.name = name
        self.format = prompt_format
        self._loaders = dict(loaders)
        self._limit = limit
        self._load = functools.cache(self._load_split)

    def add_split(self, name: str, load: SplitLoader) -> None:
        """One more split; a split of that name stays as it is."""
        self._loaders.setdefault(name, load)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._loaders)

    def questions(self, split: str) -> list[Question]:
        return list(self._load(split)[0])

    def gold(self, split: str) -> list[Response]:
        return list(self._load(split)[1])

    def texts(self) -> Iterator[str]:
        for split in self.splits:
            questions, responses = self._load(split)
            for question in questions:
                yield self.format.prompt(question)
                if question.answer is not None:
                    yield self.format.target(None, question.answer)
            yield from (self.format.target(r.rationale, r.answer) for r in responses)

    def _load_split(self, split: str) -> tuple[list[Question], list[Response]]:
        if split not in self._loaders:
            raise InputError(f"task {self.name!r} has no split {split!r}; it has {', '.join(self._loaders) or 'none'}")
        questions, responses = self._loaders[split]()
        if self._limit:
            questions = questions[: self._limit]
            kept = {q.id for q in questions}
            responses = [r for r in responses if r.question_id in kept]
        return questions, responses


def require_unique(questions: Sequence[Question], where: str) -> None:
    """Raises InputError if two questions share an id."""
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise InputError(f"{where}: the id {question.id!r} occurs twice; ids name responses and must be unique")
        seen.add(question.id)
