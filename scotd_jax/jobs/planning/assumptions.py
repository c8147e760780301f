"""Shapes of models and questions from the config alone: no weights, no corpora, no tokenizer.

What cannot be known without them is replaced by a bound or an assumption, and what was assumed is kept to be told.
"""

import dataclasses
import math
from typing import Any

from etils import epath

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.models import registry
from scotd_jax.tasks.base import LoadedTask
from scotd_jax.tasks.prompt_formats import answer_forms
from scotd_jax.tasks.question_sets import QuestionSet
from scotd_jax.tasks.registry import load_task

ANSWERS = 5  # of a question whose file is not here: as many as any of the tasks' own letters


class Assumed:
    """Looks things up, and remembers in `notes` what it had to assume."""

    def __init__(self, config: c.Config):
        self.config, self.notes = config, dict[str, None]()
        self._tasks: dict[str, LoadedTask | None] = {}

    def model(self, model: c.Model) -> Any:
        """The architecture of a model. Raises InputError if neither config.json nor a preset of its name says it."""
        if model.student:
            return self.model(self.config.students[model.student].model)
        if model.architecture:
            if model.tokenizer.startswith("task:") and "vocab_size" not in model.overrides:
                self.notes[f"{model.architecture}: its own vocabulary instead of one of the task's words"] = None
            return registry.config_for(model.architecture, model.overrides)
        if (epath.Path(model.path) / "config.json").exists():
            from scotd_jax.models.hf.loading import load_config

            return load_config(model.path)
        name = epath.Path(model.path).name
        if name not in registry.PRESETS:
            raise InputError(
                f"{model.path}/config.json: no such file, and {name!r} is no preset whose shape is known; "
                "give the folder (config.json alone is enough), or a model by its architecture"
            )
        self.notes[f"{model.path} is not here: the preset {name} stands for it"] = None
        return registry.config_for(name)

    def questions(self, sets: tuple[str, ...], limit: int = 0) -> int:
        """How many questions the sets hold together, of each the first `limit` only (0: all)."""
        return sum(min(self._questions(name), limit or self._questions(name)) for name in sets)

    def answers(self, sets: tuple[str, ...]) -> int:
        """How many answers the questions of these sets have to choose from, at most."""
        return max(map(self._answers, sets))

    def _answers(self, name: str) -> int:
        where = QuestionSet.parse(name)
        task = self._task(where.task)
        if task is not None:
            return max(len(answer_forms(question)) for question in task.questions(where.split))
        self.notes[f"{ANSWERS} answers to choose from in {where.task}.{where.split}, whose files are not here"] = None
        return ANSWERS

    def _questions(self, name: str) -> int:
        where = QuestionSet.parse(name)
        task = self._task(where.task)
        if task is not None:
            return sum(where.holds(question.text) for question in task.questions(where.split))
        spec = self.config.tasks[where.task]
        count = min(self.config.plan.questions, spec.limit or self.config.plan.questions)
        share = (where.folds - 1 if where.others else 1) / where.folds
        self.notes[f"{count:,} questions in {where.task}.{where.split}, whose files are not here (plan.questions)"] = (
            None
        )
        return round(count * share)

    def _task(self, name: str) -> LoadedTask | None:
        """The task, if it is generated or its files are here: nothing is fetched."""
        if name not in self._tasks:
            spec = self.config.tasks[name]
            here = spec.kind == "world" or (spec.path and ":" not in spec.path and epath.Path(spec.path).exists())
            self._tasks[name] = load_task(name, spec, self.config.seed + spec.seed) if here else None
        return self._tasks[name]


LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers")  # names of such fields in configs of models


def layers_of(model_config: Any) -> int:
    """Layers of a stack; of an encoder-decoder, of its encoder."""
    return next(getattr(model_config, name) for name in LAYERS if hasattr(model_config, name))


def with_layers(model_config: Any, layers: int) -> Any:
    """The same model with so many layers, of a decoder in proportion to its encoder's."""
    if layers == (whole := layers_of(model_config)):
        return model_config
    stacks = {name: count * layers // whole for name, count in _stacks(model_config).items()}
    return dataclasses.replace(model_config, **stacks)


def shallow(model_config: Any, most: int = 0) -> tuple[int, ...]:
    """Depths of two models that tell of a deeper one, the second of about `most` layers; or its own alone, if that is
    not more. In each every stack has whole layers: with 2 of a decoder to 6 of an encoder they are multiples of 3."""
    deep = layers_of(model_config)
    step = deep // math.gcd(*_stacks(model_config).values())
    many = max(2, most // step)
    return (many // 2 * step, many * step) if many * step < deep else (deep,)


def _stacks(model_config: Any) -> dict[str, int]:
    """Layers of each stack, by the name of its field."""
    fields = [f.name for f in dataclasses.fields(model_config) if f.name in LAYERS]
    return {name: getattr(model_config, name) for name in fields if getattr(model_config, name) is not None}
