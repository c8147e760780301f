"""Evaluation of a student on dev questions during training."""

from collections.abc import Mapping

from scotd_jax.config import Model
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.local import PromptedModel
from scotd_jax.jobs.generation.prompting import prompt_settings
from scotd_jax.jobs.generation.provided_rationales import load_provided_rationales
from scotd_jax.models import api
from scotd_jax.sampling.decode_loop import cast_for_inference


class DevEvaluation:
    """Computes the greedy dev accuracy of parameters; its sampler is compiled once.

    Keeps no parameters between calls, since training needs the memory.
    """

    def __init__(self, context: RunContext, name: str, functions: api.LanguageModel):
        """Prepares the evaluation of the student `name`.

        Raises:
          InputError: if there are no dev questions, or too few rationales for a recipe with rationales in prompts.
        """
        config, spec = context.config, context.config.students[name]
        self._context, self._functions, self._sampling = context, functions, config.evaluation.sampling
        self._questions = context.questions.interleaved(spec.dev_sets, config.evaluation.dev_questions)
        if not self._questions:
            raise InputError(f"config.students.{name}.dev_sets: no questions in {', '.join(spec.dev_sets)}")
        rationales = load_provided_rationales(context, name, spec.rationales_from, self._questions, "own", 1)
        prompts = context.prompt_builder(prompt_settings(config, Model(student=name)))
        tokenizer = context.models.tokenizer(spec.model)
        self._model = PromptedModel(name, functions, functions.abstract(), tokenizer, prompts)
        self._sampler = self._model.sampler(self._questions, self._sampling, 0, context.sampling_mesh)
        self._requests = self._model.requests(self._questions, 1, rationales=rationales)

    def __call__(self, params: api.Params, step: int) -> Mapping[str, float]:
        """Returns {"dev_accuracy": share of the questions with a correct answer}."""
        del step
        inference_params = cast_for_inference(self._functions, params)
        self._sampler.params = self._context.models.to_sampling_devices(inference_params, self._functions)
        del inference_params
        correct = 0
        for samples in self._sampler(self._requests):
            rows = self._model.responses(samples, self._questions, self._sampling)
            correct += sum(row.correct is True for row in rows)
        self._sampler.params = None
        return {"dev_accuracy": correct / len(self._requests)}
