"""Builds the prompts of a model from recipe, format and few-shot examples, and parses its responses."""

import dataclasses
import re
from collections.abc import Callable

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.jobs.generation.thinking import ThinkingBlocks
from scotd_jax.records import Prompt, Question, Response
from scotd_jax.sampling.requests import Sample
from scotd_jax.tasks import recipes
from scotd_jax.tasks.answer_patterns import normalize_answer, parse_by_pattern, parse_chat
from scotd_jax.tasks.base import LoadedTask
from scotd_jax.tasks.exemplars import join_prompt
from scotd_jax.tasks.instructions import check_instruction, default_instruction
from scotd_jax.tasks.prompt_formats import Parsed, PromptFormat, get_prompt_format, is_correct

# few_shot_prompt(task, format, number of examples, whether as chat turns)
FewShotPrompt = Callable[[LoadedTask, PromptFormat, int, bool], Prompt]


@dataclasses.dataclass(frozen=True)
class PromptSettings:
    """The part of the config that determines how a model is prompted and how its responses are parsed.

    Attributes:
      recipe: template of the prompt, and how responses are parsed.
      format: the format of every prompt; None if prompts have the format of their task.
      few_shot: number of the task's examples before every prompt.
      chat: whether prompts are chat turns, which the tokenizer's chat template renders.
      instruction_tuned: whether the model is a chat model that this run has not trained. Its responses may have
        several paragraphs, and answer sentences in other words than the format's.
      system: system turn of a chat; "" for none.
      instruction: template of a line after every question (tasks/instructions.py); "" for none.
      answer_pattern: regular expression that parses responses in place of recipe and format; "" for none.
    """

    recipe: c.Recipe
    format: PromptFormat | None
    few_shot: int
    chat: bool
    instruction_tuned: bool = False
    system: str = ""
    instruction: str = ""
    answer_pattern: str = ""


def prompt_settings(
    config: c.Config, model: c.Model, *, recipe: str = "", few_shot: int | None = None
) -> PromptSettings:
    """Returns the prompt settings of a model of the config.

    By default, a student is prompted as in its corpus, and any other model with the recipe "scotd" without examples.

    Args:
      config: the whole config.
      model: one of its models.
      recipe: name of another recipe; "" for the model's own.
      few_shot: another number of examples; None for the model's own.
    """
    own_recipe, own_format, own_few_shot = recipes.RECIPES["scotd"], None, 0
    if model.student:
        corpus = config.students[model.student].corpus
        own_recipe, own_format = corpus_recipe(config, corpus), corpus_format(config, corpus)
        own_few_shot = config.corpora[corpus].few_shot
    if recipe:
        own_recipe = recipes.find(recipe, config.recipes)
    count = own_few_shot if few_shot is None else few_shot
    chat = uses_chat_template(config, model)
    return PromptSettings(own_recipe, own_format, count, chat, instruction_tuned=chat and not model.student)


def source_prompt_settings(config: c.Config, spec: c.GeneratedSource, where: str) -> PromptSettings:
    """Returns the prompt settings of a source of rationales. `where` is its config path.

    Raises:
      InputError: on an unknown recipe, an invalid instruction, or a system turn without a chat.
    """
    if isinstance(spec, c.ModelSource):
        settings = prompt_settings(config, spec.model, recipe=spec.recipe, few_shot=spec.few_shot or None)
        key = "model.chat=True"
    else:
        recipe, chat = recipes.find(spec.recipe, config.recipes, f"{where}.recipe"), spec.server.kind == "chat"
        settings = PromptSettings(recipe, None, spec.few_shot, chat, instruction_tuned=chat)
        key = "server.kind='chat'"
    if spec.system and not settings.chat:
        raise InputError(f"{where}.system: only chats have a system turn; set {key}, or use instruction")
    instruction = _automatic_instruction(settings) if spec.instruction == "auto" else spec.instruction
    check_instruction(instruction, f"{where}.instruction")
    return dataclasses.replace(
        settings, system=spec.system, instruction=instruction, answer_pattern=spec.answer_pattern
    )


def _automatic_instruction(settings: PromptSettings) -> str:
    """The default instruction for instruction-tuned models; "" for others, and if examples already show the format."""
    is_requested = settings.instruction_tuned and not settings.few_shot
    return default_instruction(settings.recipe) if is_requested else ""


def evaluation_prompt_settings(config: c.Config, spec: c.EvalSpec) -> PromptSettings:
    """Returns how the student of an evaluation is prompted, after its training or before it.

    Before its training, a chat model is prompted like a teacher, with the automatic instruction.
    """
    few_shot = None if spec.few_shot < 0 else spec.few_shot
    settings = prompt_settings(config, c.Model(student=spec.student), few_shot=few_shot)
    if spec.checkpoint == "initial":
        is_tuned = settings.chat and not config.students[spec.student].model.student
        recipe = recipes.before_training(settings.recipe)
        settings = dataclasses.replace(settings, recipe=recipe, instruction_tuned=is_tuned)
        settings = dataclasses.replace(settings, instruction=_automatic_instruction(settings))
    return settings


def corpus_recipe(config: c.Config, corpus: str) -> c.Recipe:
    """Returns the recipe of a corpus."""
    return recipes.find(config.corpora[corpus].recipe, config.recipes, f"config.corpora.{corpus}.recipe")


def corpus_format(config: c.Config, corpus: str) -> PromptFormat | None:
    """Returns the prompt format of a corpus; None if prompts have the format of their task."""
    name = config.corpora[corpus].format
    return get_prompt_format(name, f"config.corpora.{corpus}.format") if name else None


def corpus_question_sets(config: c.Config, corpus: str) -> tuple[str, ...]:
    """Returns the names of the question sets of a corpus: those it sets, or those of its rationales."""
    spec = config.corpora[corpus]
    rationale_sets = (name for source in spec.rationales for name in config.rationales[source].questions)
    return spec.questions or tuple(dict.fromkeys(rationale_sets))


def uses_chat_template(config: c.Config, model: c.Model) -> bool:
    """Returns whether prompts of a model are chat turns. A student is prompted like its initial model."""
    return model.chat or bool(model.student and uses_chat_template(config, config.students[model.student].model))


@dataclasses.dataclass(frozen=True)
class PromptBuilder:
    """Builds the prompts of one model."""

    settings: PromptSettings
    few_shot_prompt: FewShotPrompt

    @property
    def recipe(self) -> c.Recipe:
        return self.settings.recipe

    def format_for(self, task: LoadedTask) -> PromptFormat:
        """Returns the format of prompts for a task.

        The turns of instruction-tuned models mark question and response themselves, and end without stop strings.
        """
        prompt_format = self.settings.format or task.format
        if self.settings.instruction:
            prompt_format = dataclasses.replace(prompt_format, instruction=self.settings.instruction)
        if self.settings.instruction_tuned:
            prompt_format = dataclasses.replace(prompt_format, question_prefix="", answer_prefix="", stops=())
        return prompt_format

    def few_shot(self, task: LoadedTask) -> Prompt:
        """Returns the start of every prompt for a task, as text or chat turns: system turn and few-shot examples."""
        few_shot = self.few_shot_prompt(task, self.format_for(task), self.settings.few_shot, self.settings.chat)
        if not self.settings.system:
            return few_shot
        assert not isinstance(few_shot, str), "only chats have a system turn"
        return ({"role": "system", "content": self.settings.system}, *few_shot)

    def prompt(self, question: Question, task: LoadedTask, rationale: str | None = None) -> Prompt:
        """Returns the complete prompt for a question. `rationale` is for recipes with a rationale in prompts."""
        text = recipes.build_prompt(self.recipe, self.format_for(task), question, rationale)
        return join_prompt(self.few_shot(task), text)

    def parse(self, text: str, question: Question, task: LoadedTask) -> Parsed:
        """Parses a response: by the answer pattern if there is one, else by recipe and format.

        The answer of an instruction-tuned model that does not write the format's marker is read as `parse_chat` does.
        """
        settings, prompt_format = self.settings, self.format_for(task)
        if settings.answer_pattern:
            return _by_pattern(prompt_format.truncate(text), re.compile(settings.answer_pattern), question)
        parsed = recipes.parse_response(settings.recipe, prompt_format, text, question)
        if parsed.answer is None and settings.instruction_tuned and settings.recipe.parse_as == "response":
            reworded = parse_chat(text, question)
            return parsed if reworded.answer is None else reworded
        return parsed


def _by_pattern(text: str, pattern: re.Pattern[str], question: Question) -> Parsed:
    rationale, answer = parse_by_pattern(text, pattern)
    return Parsed(rationale, None if answer is None else normalize_answer(answer, question))


def make_response(
    sample: Sample,
    question: Question,
    task: LoadedTask,
    *,
    prompts: PromptBuilder,
    thinking: ThinkingBlocks,
    model: str,
    sampling: str,
    rationale: str | None = None,
) -> Response:
    """Parses a sample by the model's prompt settings and compares its answer with the gold answer.

    Args:
      sample: the generated text.
      question: its question.
      task: the task of the question.
      prompts: how the model was prompted.
      thinking: how thinking blocks are treated.
      model: name of the model.
      sampling: description of the sampling policy, from `describe`.
      rationale: the rationale in the prompt, which is stored if the response contains none.

    Raises:
      InputError: on a thinking block, if `thinking` refuses them.
    """

    def parse(text: str) -> Parsed:
        return prompts.parse(text, question, task)

    sample, parsed = thinking.parse(sample, prompts.format_for(task), parse)
    return Response(
        question_id=sample.question_id,
        sample_index=sample.sample_index,
        text=sample.text,
        rationale=rationale if parsed.rationale is None else parsed.rationale,
        answer=parsed.answer,
        correct=is_correct(parsed.answer, question),
        finish_reason=sample.finish_reason,
        logprob=round(sample.logprob, 4),
        num_tokens=sample.num_tokens,
        model=model,
        sampling=sampling,
    )


def describe(sampling: c.Sampling) -> str:
    """Returns a sampling policy as a short string, e.g. "temperature=0.7,top_p=0.9", for the records."""
    if sampling.temperature == 0:
        return "greedy"
    parts = [f"temperature={sampling.temperature:g}"]
    if sampling.top_k:
        parts.append(f"top_k={sampling.top_k}")
    if sampling.top_p < 1:
        parts.append(f"top_p={sampling.top_p:g}")
    return ",".join(parts)
