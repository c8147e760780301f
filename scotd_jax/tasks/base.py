"""Interface of a task: named splits of questions, optional gold responses, and a prompt format."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from scotd_jax.errors import InputError, list_names
from scotd_jax.records import Question, Response
from scotd_jax.tasks.prompt_formats import PromptFormat


@runtime_checkable
class LoadedTask(Protocol):
    """A source of questions. The order of a split is fixed and the same in every process."""

    name: str
    format: PromptFormat

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the available splits."""
        ...

    def questions(self, split: str) -> list[Question]:
        """Returns all questions of a split. Raises InputError on an unknown split."""
        ...

    def gold(self, split: str) -> list[Response]:
        """Returns the gold responses that come with a split; empty if there are none."""
        ...

    def texts(self) -> Iterator[str]:
        """Yields prompts and targets in the task's format, the training texts of a tokenizer."""
        ...


SplitLoader = Callable[[], tuple[list[Question], list[Response]]]


class SplitTask:
    """A task whose splits are loaded on first use, each by its own function."""

    def __init__(self, name: str, prompt_format: PromptFormat, loaders: Mapping[str, SplitLoader], limit: int = 0):
        """Creates a task.

        Args:
          name: key of the task in the config.
          prompt_format: format of prompts and targets.
          loaders: one function per split, which returns the split's questions and its gold responses.
          limit: number of questions to keep from the start of every split, with their responses; 0 keeps all.
        """
        self.name = name
        self.format = prompt_format
        self._loaders = dict(loaders)
        self._limit = limit
        self._load = functools.cache(self._load_split)

    def add_split(self, name: str, load: SplitLoader) -> None:
        """Adds a split unless one of that name exists."""
        self._loaders.setdefault(name, load)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the available splits."""
        return tuple(self._loaders)

    def questions(self, split: str) -> list[Question]:
        """Returns all questions of a split. Raises InputError on an unknown split."""
        return list(self._load(split)[0])

    def gold(self, split: str) -> list[Response]:
        """Returns the gold responses of a split. Raises InputError on an unknown split."""
        return list(self._load(split)[1])

    def texts(self) -> Iterator[str]:
        """Yields prompts, label-only targets and gold targets of all splits."""
        for split in self.splits:
            questions, responses = self._load(split)
            for question in questions:
                yield self.format.prompt(question)
                if question.answer is not None:
                    yield self.format.target(None, question.answer)
            yield from (self.format.target(r.rationale, r.answer) for r in responses)

    def _load_split(self, split: str) -> tuple[list[Question], list[Response]]:
        if split not in self._loaders:
            raise InputError(f"task {self.name!r} has no split {split!r}; it has {list_names(self._loaders)}")
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
            raise InputError(f"{where}: the id {question.id!r} occurs twice; ids must be unique")
        seen.add(question.id)
