"""The answers that an evaluation scores: of a student, of its model before training, or of a set of responses."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from etils import epath

from scotd_jax.config import EvalSpec, Model, ModelSource, Sampling
from scotd_jax.config.eval_specs import probes_rationales
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.choices import unanswered, write_choices
from scotd_jax.jobs.generation.combining import answer_by_marginal, answer_by_vote
from scotd_jax.jobs.generation.interventions import RationaleProbes, has_rationale
from scotd_jax.jobs.generation.local import PromptedModel, RationalesById, generate, load_prompted_model
from scotd_jax.jobs.generation.prompting import evaluation_prompt_settings
from scotd_jax.jobs.generation.provided_rationales import load_provided_rationales
from scotd_jax.jobs.generation.scored_responses import write_scored_responses
from scotd_jax.jobs.generation.source_model import load_source_model
from scotd_jax.rationales.store import read_responses
from scotd_jax.records import Response
from scotd_jax.tasks.question_loader import QuestionsById
from scotd_jax.tasks.question_sets import file_stem
from scotd_jax.tasks.recipes import generates_rationale


class SetAnswers(NamedTuple):
    """The answers to one question set under one reading.

    Attributes:
      reading: how the answers were read: from the text, or by the likelihood of the choices.
      rows: one answer per question; with `EvalSpec.responses`, n answers per question.
      samples: several samples per question for self-consistency; empty for none.
      candidates: the scored choices after every row (`evaluation.choice_likelihoods`); empty unless these decide.
      changed: change of the rationales -> the answers after it; empty unless choices are compared after rationales.
      simulated: input of the simulator -> its predictions; empty without a simulator.
    """

    reading: Literal["text", "choices"]
    rows: list[Response]
    samples: list[Response]
    candidates: Sequence[Response] = ()
    changed: Mapping[str, Sequence[Response]] = {}
    simulated: Mapping[str, Sequence[Response]] = {}


def load_evaluated_model(context: RunContext, spec: EvalSpec) -> PromptedModel | None:
    """Returns the model of an evaluation; None if it only reads the text of stored responses."""
    if spec.responses:
        source = context.config.rationales[spec.responses]
        is_needed = spec.read != "text" and isinstance(source, ModelSource)
        return load_source_model(context, spec.responses, source) if is_needed else None
    student, prompts = context.config.students[spec.student], evaluation_prompt_settings(context.config, spec)
    if spec.checkpoint == "initial":
        name, seed = f"{spec.student} before training", context.config.seed + student.seed
        return load_prompted_model(context, name, student.model, student.precision, prompts, seed=seed)
    return load_prompted_model(context, spec.student, Model(student=spec.student), student.precision, prompts)


@dataclasses.dataclass(frozen=True)
class SetEvaluation:
    """The evaluation of one question set.

    Attributes:
      context: the run.
      spec: the evaluation.
      model: from `load_evaluated_model`.
      set_name: name of the question set, the first part of all file names.
      questions: its questions.
      folder: folder of the response files.
      simulator: from `interventions.load_simulator`.
    """

    context: RunContext
    spec: EvalSpec
    model: PromptedModel | None
    set_name: str
    questions: QuestionsById
    folder: epath.Path
    simulator: PromptedModel | None = None

    def answers(self) -> Iterator[SetAnswers]:
        """Generates or selects the responses, and yields their answers under every reading of the evaluation."""
        if self.spec.responses:
            paths = write_scored_responses(self.context, self.spec, self.set_name, self.questions, self.folder)
            rows = list(read_responses(paths))
            answered = {row.question_id: self.questions[row.question_id] for row in rows}
            samples = rows if self.spec.n > 1 else []
            yield from dataclasses.replace(self, questions=answered)._readings(rows, samples, None)
            return
        rationales = self._provided_rationales()
        if rationales is not None and self.spec.combine == "marginal":
            yield SetAnswers("text", self._marginal(rationales), [])
            return
        generates = self.spec.read != "choices" or not self._is_immediate
        rows, samples = self._generate(rationales) if generates else ([], [])
        yield from self._readings(rows, samples, rationales)

    def _readings(
        self, rows: list[Response], samples: list[Response], rationales: RationalesById | None
    ) -> Iterator[SetAnswers]:
        """The answers of generated or stored responses, read from the text, by the choices, or both.

        Args:
          rows: the responses; empty if the choices directly follow the prompt and nothing else is read.
          samples: the samples for self-consistency.
          rationales: provided rationales, if there are any.
        """
        if self.spec.read != "choices":
            yield SetAnswers("text", self._combine(rows, "responses"), samples)
        if self.spec.read != "text":
            if self._is_immediate:
                rows, samples = unanswered(self._loaded_model, self.questions, rationales), []
            stem = "choices.each.responses" if self._is_vote else "choices.responses"
            chosen, candidates = self._choose(rows, stem)
            voters, _ = self._choose(samples, "choices.samples.responses") if samples else ([], [])
            combined = self._combine(chosen, "choices.responses")
            yield SetAnswers("choices", combined, voters, [] if self._is_vote else candidates, *self._probe(rows))

    def _probe(self, rows: Sequence[Response]) -> tuple[Mapping[str, list[Response]], Mapping[str, list[Response]]]:
        """The answers after changed rationales, and the predictions of the simulator; none without rationales."""
        if not (probes_rationales(self.spec) and has_rationale(self._loaded_model)):
            return {}, {}
        probes = RationaleProbes(self.context, self._loaded_model, self.set_name, self.questions, self.folder)
        return probes.changed(rows), probes.simulated(self.simulator, rows) if self.simulator else {}

    @property
    def _loaded_model(self) -> PromptedModel:
        assert self.model is not None, "only the text of stored responses is read without a model"
        return self.model

    @property
    def _is_immediate(self) -> bool:
        """Whether the model answers without a rationale of its own."""
        return not generates_rationale(self._loaded_model.prompts.recipe)

    @property
    def _is_vote(self) -> bool:
        """Whether the answers after several provided rationales are combined into one."""
        return self.spec.n > 1 and not self.spec.responses

    def _provided_rationales(self) -> RationalesById | None:
        spec = self.spec
        if spec.checkpoint == "initial":
            return None
        return load_provided_rationales(
            self.context, spec.student, spec.rationales_from, self.questions, spec.rationale_control, spec.n
        )

    def _generate(self, rationales: RationalesById | None) -> tuple[list[Response], list[Response]]:
        """One response per question or provided rationale, and the samples for self-consistency."""
        settings = self.context.config.evaluation
        rows = self._generated(settings.sampling, "each.responses" if self._is_vote else "responses", rationales)
        voting = settings.self_consistency
        if not voting.n or rationales is not None:
            return rows, []
        return rows, self._generated(voting, f"n{voting.n}.responses")

    def _generated(self, sampling: Sampling, stem: str, rationales: RationalesById | None = None) -> list[Response]:
        paths = generate(
            self.context,
            self._loaded_model,
            self.questions,
            sampling,
            seed=self.context.config.seed,
            folder=self.folder,
            stem=f"{file_stem(self.set_name)}.{stem}",
            rationales=rationales,
        )
        return list(read_responses(paths))

    def _combine(self, rows: list[Response], stem: str) -> list[Response]:
        """The votes over the answers after several provided rationales; else the answers themselves."""
        if not self._is_vote:
            return rows
        stem = f"{file_stem(self.set_name)}.{stem}"
        paths = answer_by_vote(self.context, rows, self.questions, self.folder, self.set_name, stem)
        return list(read_responses(paths))

    def _marginal(self, rationales: RationalesById) -> list[Response]:
        """The answers with the largest sum of probabilities over the provided rationales."""
        paths = answer_by_marginal(
            self.context,
            self._loaded_model,
            self.questions,
            rationales,
            self.context.config.evaluation.sampling,
            self.folder,
            self.set_name,
        )
        return list(read_responses(paths))

    def _choose(self, rows: list[Response], stem: str) -> tuple[list[Response], list[Response]]:
        """The rows with the most likely choices as their answers, and the candidates of all of them."""
        chosen, candidates = write_choices(
            self.context,
            self._loaded_model,
            self.questions,
            rows,
            self.context.config.evaluation.sampling,
            self.folder,
            self.set_name,
            f"{file_stem(self.set_name)}.{stem}",
        )
        return list(read_responses(chosen)), list(read_responses(candidates))
