"""The prompts of a run's teachers and students with special tokens; needs tokenizers but no weights."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from scotd_jax.config import GeneratedSource, Model, ModelSource, TaskSource
from scotd_jax.config.eval_specs import eval_specs
from scotd_jax.corpus.question_examples import ExampleEncoder, PromptedQuestion
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.prompting import (
    PromptBuilder,
    PromptSettings,
    evaluation_prompt_settings,
    source_prompt_settings,
    uses_chat_template,
)
from scotd_jax.rationales.store import read_responses
from scotd_jax.records import Prompt, Question, Response
from scotd_jax.reporting.data import PromptView
from scotd_jax.tasks import recipes
from scotd_jax.tasks.base import LoadedTask

PLACEHOLDER = "RATIONALE"  # replaces a rationale that has not been sampled yet


class EncodedText(NamedTuple):
    """A text with its special tokens, and its number of tokens; None for a server, whose tokenizer is unknown."""

    text: str
    tokens: int | None


def prompt_views(context: RunContext, count: int) -> list[PromptView]:
    """Returns the prompts of every model for `count` questions; models with equal prompts share a view.

    Raises:
      InputError: if questions or a tokenizer cannot be loaded.
    """
    names: dict[PromptView, list[str]] = {}
    for view in (*_teachers(context, count), *_training(context, count), *_evaluations(context, count)):
        names.setdefault(dataclasses.replace(view, names=()), []).extend(view.names)
    return [dataclasses.replace(view, names=tuple(dict.fromkeys(found))) for view, found in names.items()]


def _teachers(context: RunContext, count: int) -> Iterator[PromptView]:
    """The prompts of every source that generates responses."""
    for name, spec in context.config.rationales.items():
        if not isinstance(spec, GeneratedSource):
            continue
        prompts = context.prompt_builder(source_prompt_settings(context.config, spec, f"config.rationales.{name}"))
        model, where = None, ""
        if isinstance(spec, ModelSource):
            model, where = spec.model, _model_name(spec.model)
        else:
            where = f"{spec.server.model} on a server"
        for question, task in context.questions.by_id(spec.questions, count).values():
            prompt = _encode(context, model, prompts.prompt(question, task))
            yield PromptView(
                role="teacher",
                names=(name,),
                about=f"{where}, {_describe(prompts.settings)}",
                question_id=question.id,
                prompt=prompt.text,
                prompt_tokens=prompt.tokens,
                ends=_ends(context, model, prompts, task),
            )


def _training(context: RunContext, count: int) -> Iterator[PromptView]:
    """The training examples of every corpus, one response to a question."""
    for name, spec in context.config.corpora.items():
        student = next((s for s in context.config.students.values() if s.corpus == name), None)
        if student is None:
            continue
        recipe, model = context.recipes[name], student.model
        chat = uses_chat_template(context.config, model)
        settings = PromptSettings(recipe, context.formats[name], spec.few_shot, chat)
        prompts, tokenizer = context.prompt_builder(settings), context.models.tokenizer(model)
        encoder = ExampleEncoder(spec, recipe, tokenizer.encoder(context.models.architecture(model).kind, chat), True)
        for question, task, response in _examples(context, name, count):
            prompted = PromptedQuestion(question, prompts.format_for(task), prompts.few_shot(task))
            for part, examples in encoder.encode(prompted, [response]).items():
                about = f"{_model_name(model)}, {_describe(settings)}"
                if len(recipe.parts) > 1:
                    about += f", part {part} with weight {recipe.parts[part].weight:g}"
                if spec.rationale_control != "own":
                    about += f", before the rationale is replaced (rationale_control {spec.rationale_control!r})"
                if response.rationale == PLACEHOLDER:
                    about += f", {PLACEHOLDER} stands for a rationale, since none is sampled yet"
                example = examples[0]
                yield PromptView(
                    role="student in training",
                    names=tuple(key for key, s in context.config.students.items() if s.corpus == name),
                    about=about,
                    question_id=question.id,
                    prompt=tokenizer.decode_with_special_tokens(example.prompt),
                    prompt_tokens=len(example.prompt),
                    target=tokenizer.decode_with_special_tokens(example.responses[0]),
                    target_tokens=len(example.responses[0]),
                )


def _evaluations(context: RunContext, count: int) -> Iterator[PromptView]:
    """The prompts of every evaluation."""
    for name, spec in eval_specs(context.config).items():
        if spec.responses:  # their prompts are among those of the teachers
            continue
        model = Model(student=spec.student)
        prompts = context.prompt_builder(evaluation_prompt_settings(context.config, spec))
        rationale = PLACEHOLDER if recipes.needs_rationale(prompts.recipe) else None
        about = f"{_model_name(context.config.students[spec.student].model)}, {_describe(prompts.settings)}"
        if spec.checkpoint == "initial":
            about += ", before training"
        if rationale:
            about += f", {rationale} stands for a provided rationale"
        for question, task in context.questions.by_id(spec.eval_sets[:1], count).values():
            prompt = _encode(context, model, prompts.prompt(question, task, rationale))
            yield PromptView(
                role="student under evaluation",
                names=(name,),
                about=about,
                question_id=question.id,
                prompt=prompt.text,
                prompt_tokens=prompt.tokens,
                ends=_ends(context, model, prompts, task),
            )


def _examples(context: RunContext, corpus: str, count: int) -> Iterator[tuple[Question, LoadedTask, Response]]:
    """Questions of a corpus, each with one response to train on: a sampled one if there are any, else a placeholder."""
    questions = context.questions.by_id(context.question_sets[corpus])
    found: dict[str, Response] = {}
    for source in context.config.corpora[corpus].rationales:
        for row in _stored_responses(context, source):
            if row.question_id in questions and row.answer is not None and row.correct is not False:
                found.setdefault(row.question_id, row)
            if len(found) == count:
                break
    for id_ in [*found, *(id_ for id_ in questions if id_ not in found)][:count]:
        question, task = questions[id_]
        yield question, task, found.get(id_, _placeholder(question))


def _stored_responses(context: RunContext, source: str) -> Iterator[Response]:
    """The responses of a complete set; else the gold rationales, if the source is a task."""
    spec = context.config.rationales[source]
    if context.artefact("sample", source).complete:
        yield from read_responses(context.response_files(source))
    elif isinstance(spec, TaskSource):
        yield from context.questions.gold(spec.questions)


def _placeholder(question: Question) -> Response:
    text = f"{PLACEHOLDER} {question.answer}"
    return Response(question.id, 0, text, PLACEHOLDER, question.answer, True, "stop", 0.0, 0, "", "")


def _encode(context: RunContext, model: Model | None, prompt: Prompt) -> EncodedText:
    """The text of a prompt with its special tokens; for a server the prompt as it is sent."""
    if model is None:
        return EncodedText(prompt if isinstance(prompt, str) else _turns(prompt), None)
    tokenizer = context.models.tokenizer(model)
    ids = tokenizer.prompt_ids(prompt, context.models.architecture(model).kind)
    return EncodedText(tokenizer.decode_with_special_tokens(ids), len(ids))


def _turns(messages: Sequence) -> str:
    return "\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in messages)


def _ends(context: RunContext, model: Model | None, prompts: PromptBuilder, task: LoadedTask) -> tuple[str, ...]:
    """The stop strings and end tokens of responses."""
    stops = prompts.format_for(task).stops
    if model is None:
        return stops
    tokenizer = context.models.tokenizer(model)
    return (*stops, *(tokenizer.decode_with_special_tokens([token]) for token in tokenizer.eos_ids))


def _model_name(model: Model) -> str:
    return f"student {model.student}" if model.student else model.path or model.architecture


def _describe(settings: PromptSettings) -> str:
    """The settings that shape a prompt."""
    name = next((key for key, recipe in recipes.RECIPES.items() if recipe == settings.recipe), "of the config")
    parts = [f"recipe {name}"]
    if settings.few_shot:
        parts.append(f"{settings.few_shot} few-shot examples")
    return ", ".join([*parts, "chat"] if settings.chat else parts)
