"""Loads the tasks, question sets and few-shot examples of a config."""

import itertools
from collections.abc import Mapping, Sequence

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.records import Prompt, Question, Response
from scotd_jax.tasks.base import LoadedTask
from scotd_jax.tasks.exemplars import Exemplar, few_shot_prefix, few_shot_turns, load_exemplars
from scotd_jax.tasks.prompt_formats import PromptFormat
from scotd_jax.tasks.question_sets import QuestionSet
from scotd_jax.tasks.registry import load_task
from scotd_jax.tasks.truncation import truncate_questions

QuestionsById = Mapping[str, tuple[Question, LoadedTask]]


class QuestionLoader:
    """Loads tasks on first use and keeps them for the life of the process.

    Tasks may read large files or the network, and a run whose artefacts are complete needs few of them.
    """

    def __init__(self, tasks: Mapping[str, c.Task], seed: int):
        """`seed` is that of the config, to which each generated task adds its own."""
        self._specs, self._seed = tasks, seed
        self._tasks: dict[str, LoadedTask] = {}
        self._sets: dict[str, tuple[Question, ...]] = {}
        self._few_shot: dict[tuple[str, PromptFormat, int, bool], Prompt] = {}

    def task(self, name: str) -> LoadedTask:
        """Returns the task with this key in the config."""
        if name not in self._tasks:
            spec = self._specs[name]
            self._tasks[name] = load_task(name, spec, self._seed + spec.seed)
        return self._tasks[name]

    def tasks_of(self, set_names: Sequence[str]) -> list[LoadedTask]:
        """Returns the tasks of some question sets, each once, sorted by name."""
        return [self.task(name) for name in sorted({QuestionSet.parse(name).task for name in set_names})]

    def questions(self, set_name: str) -> tuple[Question, ...]:
        """Returns the questions of one set ("TASK.SPLIT", or a fold of it).

        Raises:
          InputError: if the task has no such split.
        """
        if set_name not in self._sets:
            parsed = QuestionSet.parse(set_name)
            questions = self.task(parsed.task).questions(parsed.split)
            # The fold of a question depends on its complete text.
            in_set = (question for question in questions if parsed.contains(question.text))
            self._sets[set_name] = truncate_questions(in_set, self._specs[parsed.task], f"config.tasks.{parsed.task}")
        return self._sets[set_name]

    def gold(self, set_names: Sequence[str]) -> list[Response]:
        """Returns the gold responses that tasks have for the questions of some sets."""
        found: list[Response] = []
        for set_name in set_names:
            parsed = QuestionSet.parse(set_name)
            ids = {question.id for question in self.questions(set_name)}
            found += [row for row in self.task(parsed.task).gold(parsed.split) if row.question_id in ids]
        return found

    def by_id(self, set_names: Sequence[str], limit: int = 0) -> dict[str, tuple[Question, LoadedTask]]:
        """Returns the first `limit` questions of several sets by id, each with its task; a limit of 0 returns all.

        Raises:
          InputError: if two questions share an id.
        """
        found: dict[str, tuple[Question, LoadedTask]] = {}
        for set_name in set_names:
            task = self.task(QuestionSet.parse(set_name).task)
            for question in self.questions(set_name):
                if question.id in found:
                    raise InputError(f"{set_name}: question {question.id!r} comes twice; ids must be unique in a run")
                found[question.id] = question, task
        return dict(itertools.islice(found.items(), limit or None))

    def interleaved(self, set_names: Sequence[str], limit: int = 0) -> dict[str, tuple[Question, LoadedTask]]:
        """Returns questions like `by_id`, but takes one of each set in turn, so that a limit leaves no set out."""
        found = self.by_id(set_names)
        rounds = itertools.zip_longest(*(self.questions(name) for name in set_names))
        in_turn = (question for questions in rounds for question in questions if question is not None)
        return {question.id: found[question.id] for question in itertools.islice(in_turn, limit or None)}

    def few_shot_prompt(self, task: LoadedTask, prompt_format: PromptFormat, count: int, chat: bool) -> Prompt:
        """Returns the first `count` examples of a task, as text or, for a chat, as user and assistant turns.

        Raises:
          InputError: if the task has fewer examples.
        """
        key = task.name, prompt_format, count, chat
        if key not in self._few_shot:
            exemplars = self._exemplars(task, count)
            join = few_shot_turns if chat else few_shot_prefix
            self._few_shot[key] = join(prompt_format, exemplars)
        return self._few_shot[key]

    def _exemplars(self, task: LoadedTask, count: int) -> list[Exemplar]:
        found = load_exemplars(self._specs[task.name].exemplars, task) if count else []
        if len(found) < count:
            raise InputError(f"config.tasks.{task.name}.exemplars: there are {len(found)}, {count} are requested")
        return found[:count]
