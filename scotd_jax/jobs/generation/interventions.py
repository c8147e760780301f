"""Answers after changed rationales, and predictions of a simulator, for measures of faithfulness.

All answers are read by the likelihood of the choices, so that nothing is generated after the rationale.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from etils import epath

from scotd_jax.config import EvalSpec, Model, RationaleControl
from scotd_jax.config.eval_specs import probes_rationales
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.choices import unanswered, write_choices
from scotd_jax.jobs.generation.local import PromptedModel, load_prompted_model
from scotd_jax.jobs.generation.prompting import prompt_settings
from scotd_jax.rationales.controls import apply_control
from scotd_jax.rationales.store import read_responses
from scotd_jax.records import Response
from scotd_jax.tasks.question_loader import QuestionsById
from scotd_jax.tasks.question_sets import file_stem
from scotd_jax.tasks.recipes import generates_rationale, needs_rationale

ORACLE = "oracle"  # right rationales in place of the model's own


def has_rationale(model: PromptedModel) -> bool:
    """Returns whether the answers of a model follow a rationale, its own or a provided one."""
    return generates_rationale(model.prompts.recipe) or needs_rationale(model.prompts.recipe)


def load_simulator(context: RunContext, spec: EvalSpec, evaluated: PromptedModel | None) -> PromptedModel | None:
    """Returns the simulator of an evaluation; None if it has none, or if the evaluated model has no rationales."""
    config, name = context.config, context.config.evaluation.simulator
    if not name or name == spec.student or not probes_rationales(spec):
        return None
    if evaluated is None or not has_rationale(evaluated):
        return None
    model = Model(student=name)
    return load_prompted_model(context, name, model, config.students[name].precision, prompt_settings(config, model))


@dataclasses.dataclass(frozen=True)
class RationaleProbes:
    """Compares the choices of one question set after changed rationales.

    Attributes:
      context: the run.
      model: the model, whose answers follow rationales.
      set_name: name of the question set, the first part of all file names.
      questions: its questions.
      folder: folder of the response files.
    """

    context: RunContext
    model: PromptedModel
    set_name: str
    questions: QuestionsById
    folder: epath.Path

    def changed(self, rows: Sequence[Response]) -> dict[str, list[Response]]:
        """Returns the answers after every change of the config: change -> answers.

        Args:
          rows: one response per question, with its own rationale.
        """
        rows = [self._with_rationale(row) for row in rows]
        return {name: self._choose(self.model, self.questions, new, name) for name, new in self._changes(rows)}

    def simulated(self, simulator: PromptedModel, rows: Sequence[Response]) -> dict[str, list[Response]]:
        """Returns the predictions of the simulator for the rationales of the rows (`evaluation.faithfulness`)."""
        rationales = {row.question_id: [self._with_rationale(row).rationale or ""] for row in rows}
        nothing = {id_: [""] for id_ in rationales}
        # The rationale alone: the prompt has no question, and the choices are compared all the same.
        blank = {
            id_: (dataclasses.replace(question, text="", context=None), task)
            for id_, (question, task) in self.questions.items()
        }
        inputs = {
            "both": (self.questions, rationales),
            "question": (self.questions, nothing),
            "rationale": (blank, rationales),
        }
        return {
            name: self._choose(simulator, questions, unanswered(simulator, questions, texts), f"simulated_{name}")
            for name, (questions, texts) in inputs.items()
        }

    def _changes(self, rows: Sequence[Response]) -> Iterator[tuple[str, list[Response]]]:
        """The rows with changed rationales. Questions without a right rationale are left out of "oracle"."""
        settings = self.context.config.evaluation
        groups = [(self.questions[row.question_id][0], [row]) for row in rows]
        for kind in settings.interventions:
            control = cast("RationaleControl", kind)  # checked before any work
            yield kind, [row for _, changed in apply_control(control, groups) for row in changed]
        if settings.oracle_from:
            right = self._right_rationales(settings.oracle_from)
            known = [row for row in rows if row.question_id in right]
            if len(known) < len(rows):
                missing = f"{len(rows) - len(known)} of {len(rows)} questions have no right rationale"
                self.context.log(f"  {self.set_name}: {missing} in {', '.join(settings.oracle_from)}")
            if known:
                yield ORACLE, [dataclasses.replace(row, rationale=right[row.question_id]) for row in known]

    def _right_rationales(self, sources: Sequence[str]) -> Mapping[str, str]:
        """Question id -> rationale of its first correct response."""
        found: dict[str, str] = {}
        for source in sources:
            for row in read_responses(self.context.response_files(source)):
                if row.correct and row.has_rationale and row.question_id in self.questions:
                    found.setdefault(row.question_id, row.rationale or "")
        return found

    def _with_rationale(self, row: Response) -> Response:
        """A row with its rationale; without the marker of an answer, it is the whole generated text."""
        if row.rationale is not None:
            return row
        _, task = self.questions[row.question_id]
        return dataclasses.replace(row, rationale=self.model.prompts.format_for(task).truncate(row.text))

    def _choose(
        self, model: PromptedModel, questions: QuestionsById, rows: Sequence[Response], name: str
    ) -> list[Response]:
        """The rows with the most likely choices as their answers."""
        sampling, stem = self.context.config.evaluation.sampling, f"{file_stem(self.set_name)}.choices.{name}.responses"
        files, _ = write_choices(self.context, model, questions, rows, sampling, self.folder, self.set_name, stem)
        return list(read_responses(files))
