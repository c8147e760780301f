"""Checks the lengths of all prompts before any work: a prompt beyond a model's positions would end a run after hours.

The prompts of teachers, of training, and of dev and evaluation sets are tokenized once at the start. Responses do not
exist yet, so a prompt with a rationale counts without it.
"""

import dataclasses
import functools
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from scotd_jax.config import EvalSpec, Model, ModelSource, Recipe, plain
from scotd_jax.config.eval_specs import eval_specs, evaluated_model
from scotd_jax.digests import digest
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.prompting import (
    PromptSettings,
    evaluation_prompt_settings,
    prompt_settings,
    source_prompt_settings,
    uses_chat_template,
)
from scotd_jax.jobs.graph import Step
from scotd_jax.models.position_table import check_positions
from scotd_jax.tasks.recipes import choice_responses, generates_rationale, needs_rationale
from scotd_jax.tasks.truncation import TAG
from scotd_jax.tokenization import Tokenizer


@dataclasses.dataclass(frozen=True)
class PromptsToCheck:
    """Prompts that one model reads.

    Attributes:
      where: config path of the reader, for messages.
      model: the model.
      settings: how it is prompted.
      set_names: the question sets.
      max_new_tokens: tokens of a response that must fit after each prompt.
      advice: what to do about a prompt that is too long.
      question_ids: the questions to check; None for all questions of the sets.
      max_prompt_tokens: longer prompts are never read; None for no such limit.
    """

    where: str
    model: Model
    settings: PromptSettings
    set_names: Sequence[str]
    max_new_tokens: int
    advice: str
    question_ids: Collection[str] | None = None
    max_prompt_tokens: int | None = None


class PromptLengths:
    """Lengths of the prompts of a run's steps. Equal prompts of several steps are tokenized once."""

    def __init__(self, context: RunContext):
        self._context = context
        self._lengths: dict[str, np.ndarray] = {}
        self._fingerprint = functools.cache(Tokenizer.fingerprint)  # as slow as tokenizing a thousand prompts

    def check(self, step: Step) -> None:
        """Checks the prompts of a step, and logs how many questions a corpus will leave out.

        Raises:
          InputError: if a prompt and its response exceed the model's positions. Names the longest prompt of its set.
        """
        if step.job == "build":
            self._log_truncated(step.name)
            self._log_too_long(step.name)
        for prompts in _prompts_of(self._context, step):
            config = self._context.models.architecture(prompts.model)
            if getattr(config, "max_position_embeddings", None) is None:
                continue
            for set_name in prompts.set_names:
                lengths = self._lengths_of(prompts.model, prompts.settings, set_name)
                questions = self._context.questions.questions(set_name)
                checked = [
                    (length, question.id)
                    for length, question in zip(lengths.tolist(), questions, strict=True)
                    if (prompts.max_prompt_tokens is None or length <= prompts.max_prompt_tokens)
                    and (prompts.question_ids is None or question.id in prompts.question_ids)
                ]
                length, question_id = max(checked, default=(0, ""))
                check_positions(
                    config,
                    length + prompts.max_new_tokens,
                    f"{prompts.where}: question {question_id!r} of {set_name}: {length} prompt tokens and "
                    f"{prompts.max_new_tokens} of the response",
                    prompts.advice,
                )

    def _log_truncated(self, corpus: str) -> None:
        """Logs how many questions of a corpus are truncated (`Task.max_tokens`)."""
        sets = self._context.question_sets[corpus]
        tags = [question.tags for name in sets for question in self._context.questions.questions(name)]
        if truncated := sum(TAG in question_tags for question_tags in tags):
            self._context.log(f"corpus {corpus}: {truncated:,} of {len(tags):,} questions are truncated (max_tokens)")

    def _log_too_long(self, corpus: str) -> None:
        """Logs how many questions of a corpus have a prompt of more than its max_prompt_tokens."""
        config, spec = self._context.config, self._context.config.corpora[corpus]
        model = next(student.model for student in config.students.values() if student.corpus == corpus)
        too_long = total = 0
        for name in self._context.question_sets[corpus]:
            parts = [self._lengths_of(model, each, name) for each in _training_settings(self._context, corpus, model)]
            too_long += int((np.max(parts, axis=0) > spec.max_prompt_tokens).sum())
            total += len(parts[0])
        if too_long:
            self._context.log(
                f"corpus {corpus}: {too_long:,} of {total:,} questions have prompts of more than "
                f"{spec.max_prompt_tokens} tokens (max_prompt_tokens) and will be left out"
            )

    def _lengths_of(self, model: Model, settings: PromptSettings, set_name: str) -> np.ndarray:
        """The number of prompt tokens of every question of a set, in order."""
        tokenizer, kind = self._context.models.tokenizer(model), self._context.models.architecture(model).kind
        form = plain(settings.format) if settings.format else None
        additions = [settings.few_shot, settings.chat, settings.system, settings.instruction]
        key = digest([self._fingerprint(tokenizer), kind, settings.recipe.prompt, form, additions, set_name])
        if key not in self._lengths:
            prompts, encoder = self._context.prompt_builder(settings), tokenizer.encoder(kind, settings.chat)
            by_id = self._context.questions.by_id((set_name,))
            texts = [encoder.render(prompts.prompt(question, task)) for question, task in by_id.values()]
            special = len(encoder.prefix_ids) + len(encoder.suffix_ids)
            self._lengths[key] = np.array([len(ids) + special for ids in encoder(texts)], np.int64)
        return self._lengths[key]


def _prompts_of(context: RunContext, step: Step) -> Iterator[PromptsToCheck]:
    """The prompts that a step's model reads."""
    config = context.config
    if step.job == "sample" and isinstance(spec := config.rationales[step.name], ModelSource):
        where, tokens = f"config.rationales.{step.name}", spec.sampling.max_new_tokens
        settings = source_prompt_settings(config, spec, where)
        advice = "shorten the question, or lower few_shot or sampling.max_new_tokens"
        yield PromptsToCheck(where, spec.model, settings, spec.questions, tokens, advice)
    elif step.job == "train":
        yield from _prompts_of_training(context, step.name)
    elif step.job == "evaluate":
        yield from _prompts_of_evaluation(context, step.name)


def _prompts_of_evaluation(context: RunContext, name: str) -> Iterator[PromptsToCheck]:
    """The prompts of a student's reported sets. Those of stored responses are checked with their source."""
    config, evaluation, spec = context.config, context.config.evaluation, eval_specs(context.config)[name]
    if spec.responses:
        return
    model = evaluated_model(config, spec)
    settings = evaluation_prompt_settings(config, spec)
    tokens = evaluation.sampling.max_new_tokens
    if needs_rationale(settings.recipe):
        tokens = 0 if spec.combine == "marginal" else tokens
    elif evaluation.self_consistency.n:
        tokens = max(tokens, evaluation.self_consistency.max_new_tokens)
    if spec.read != "text":
        rationale = tokens if generates_rationale(settings.recipe) else 0
        tokens = max(0 if spec.read == "choices" else tokens, rationale + _choice_tokens(context, spec, settings))
    where = f"config.{'evals' if name in config.evals else 'students'}.{name}.eval_sets"
    advice = "shorten the question or leave it out of the set, or lower evaluation.sampling.max_new_tokens"
    ids = {id_ for set_name in spec.eval_sets for id_ in context.reported_questions(set_name)}
    yield PromptsToCheck(where, model, settings, spec.eval_sets, tokens, advice, ids)


def _choice_tokens(context: RunContext, spec: EvalSpec, settings: PromptSettings) -> int:
    """The maximum number of tokens of an answer sentence with a choice, end token included."""
    tokenizer = context.models.tokenizer(Model(student=spec.student))
    prompts = context.prompt_builder(settings)
    texts = {
        text
        for set_name in spec.eval_sets
        for question, task in context.reported_questions(set_name).values()
        for text in choice_responses(settings.recipe, prompts.format_for(task), question, "").values()
    }
    return 1 + max((len(tokenizer.encode(text)) for text in texts), default=0)


def _prompts_of_training(context: RunContext, name: str) -> Iterator[PromptsToCheck]:
    """The prompts of a student's dev questions, and of its corpus, whose longest prompts the build job drops."""
    config, student = context.config, context.config.students[name]
    corpus = config.corpora[student.corpus]
    advice = f"lower config.corpora.{student.corpus}.max_prompt_tokens, which leaves such questions out"
    for settings in _training_settings(context, student.corpus, student.model):
        sets, limit = context.question_sets[student.corpus], corpus.max_prompt_tokens
        where = f"config.students.{name}.corpus"
        yield PromptsToCheck(where, student.model, settings, sets, 1, advice, max_prompt_tokens=limit)
    if student.dev_sets:
        settings, sampling = prompt_settings(config, Model(student=name)), config.evaluation.sampling
        ids = set(context.questions.interleaved(student.dev_sets, config.evaluation.dev_questions))
        advice = "shorten the question or leave it out of the set, or lower evaluation.sampling.max_new_tokens"
        where, tokens = f"config.students.{name}.dev_sets", sampling.max_new_tokens
        yield PromptsToCheck(where, student.model, settings, student.dev_sets, tokens, advice, ids)


def _training_settings(context: RunContext, corpus: str, model: Model) -> Iterator[PromptSettings]:
    """How the prompts of the training examples are made, for each part of the corpus' recipe."""
    few_shot, chat = context.config.corpora[corpus].few_shot, uses_chat_template(context.config, model)
    for template in {part.prompt: None for part in context.recipes[corpus].parts.values()}:
        yield PromptSettings(Recipe(prompt=template), context.formats[corpus], few_shot, chat)
