"""Models and question sets for the plan, without weights, corpora or tokenizers.

Resolves models and questions by the same functions as the other jobs. Where files are missing, it substitutes a bound
or an assumption and keeps a note of it.
"""

from etils import epath

from scotd_jax import config as c
from scotd_jax.config.references import TASK_TOKENIZER_PREFIX
from scotd_jax.errors import InputError
from scotd_jax.hub.hub_names import preset_name
from scotd_jax.jobs.model_loading import base_model, model_config
from scotd_jax.models import registry
from scotd_jax.tasks.prompt_formats import answer_forms
from scotd_jax.tasks.question_loader import QuestionLoader
from scotd_jax.tasks.question_sets import QuestionSet

DEFAULT_ANSWERS = 5  # answer choices of a question whose file is missing; the most that any bundled task has


class Assumptions:
    """Resolves models and question sets of a config and records every assumption once."""

    def __init__(self, config: c.Config):
        self._config = config
        self._notes: dict[str, None] = {}
        self._questions = QuestionLoader(config.tasks, config.seed)

    @property
    def notes(self) -> list[str]:
        """One sentence per assumption."""
        return list(self._notes)

    def model_config(self, model: c.Model) -> registry.ModelConfig:
        """Returns the architecture of a model.

        Raises:
          InputError: if its folder has no config.json and the folder's name is not a preset.
        """
        model = base_model(self._config, model)
        if model.path and not (epath.Path(model.path) / "config.json").exists():
            name = preset_name(model.path)
            if name not in registry.PRESETS:
                raise InputError(
                    f"{model.path}/config.json: no such file, and {name!r} is not a known preset; "
                    "provide the folder (config.json is enough) or set the model's architecture instead"
                )
            self._note(f"{model.path} is not a local folder: using the preset {name}")
            model = c.Model(architecture=name)
        if model.tokenizer.startswith(TASK_TOKENIZER_PREFIX) and "vocab_size" not in model.overrides:
            self._note(
                f"{model.architecture}: using the preset's vocabulary size instead of the number of words in the task"
            )
        return model_config(self._config, model)

    def count_questions(self, sets: tuple[str, ...], limit: int = 0) -> int:
        """Returns the number of questions of several sets, at most `limit` per set (0: all)."""
        return sum(min(self._count(name), limit or self._count(name)) for name in sets)

    def max_answers(self, sets: tuple[str, ...]) -> int:
        """Returns the largest number of answer choices of a question in these sets."""
        return max(map(self._answers, sets))

    def _answers(self, name: str) -> int:
        if self._is_available(name):
            return max(len(answer_forms(question)) for question in self._questions.questions(name))
        parsed = QuestionSet.parse(name)
        self._note(f"{DEFAULT_ANSWERS} answer choices in {parsed.task}.{parsed.split}, whose files are missing")
        return DEFAULT_ANSWERS

    def _count(self, name: str) -> int:
        if self._is_available(name):
            return len(self._questions.questions(name))
        parsed = QuestionSet.parse(name)
        spec = self._config.tasks[parsed.task]
        count = min(self._config.plan.questions, spec.limit or self._config.plan.questions)
        share = (parsed.folds - 1 if parsed.others else 1) / parsed.folds
        self._note(f"{count:,} questions in {parsed.task}.{parsed.split}, whose files are missing (plan.questions)")
        return round(count * share)

    def _is_available(self, name: str) -> bool:
        """Whether the task of a set is generated or its files are local. The plan downloads nothing."""
        spec = self._config.tasks[QuestionSet.parse(name).task]
        return spec.kind == "world" or bool(spec.path and ":" not in spec.path and epath.Path(spec.path).exists())

    def _note(self, text: str) -> None:
        self._notes[text] = None
