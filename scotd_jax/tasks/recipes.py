"""Recipes: templates for the training examples of a question and its responses, and for the prompts of the student.

A recipe is data. Each of its parts is a template of a prompt and a template of its target. Fields of templates:

    {prompt}                              the question in the task's prompt format: {prefix}{question}{suffix}
    {prefix} {question} {suffix}          its three parts
    {rationale_prefix} {marker} {because} strings before a rationale or an answer (tasks/prompt_formats.py)
    {rationale} {answer} {text}           the response: its rationale, its answer, its complete text
    {gold} {choice}                       the gold answer in the form of the question; the text of its choice

A part without response fields gives one example per question. A part with response fields in its target only gives one
example per question, with a target for each response. A part with response fields in its prompt gives one example per
response.

Built-in recipes:

    scotd             rationale, then answer (SCoTD, arXiv 2306.14050)
    label             the gold answer alone; `teacher_label`: the teacher's answer alone
    answer_first      answer, then rationale ("mysteries of CoT-augmented distillation", arXiv 2406.14511)
    step_by_step      two tasks distinguished by a prefix; prompted for the label at test time (Distilling step-by-step,
                      arXiv 2305.02301: prefixes and even weights as in its code; the label is the text of the choice)
    rationale, infer  the two stages of Sci-CoT (arXiv 2308.04679; we have only read the abstract): question to
                      rationale, and question with rationale to answer
    text              the complete text of the response
"""

import re
import string
from collections.abc import Mapping, Sequence

from scotd_jax.config import Part, Recipe
from scotd_jax.config.loading import RENAMED_TEMPLATE_FIELDS
from scotd_jax.errors import InputError, did_you_mean
from scotd_jax.records import Question, Response
from scotd_jax.tasks.prompt_formats import Parsed, PromptFormat, answer_forms, choice_text, choice_with_text

FORMAT_FIELDS = ("prompt", "prefix", "question", "suffix", "rationale_prefix", "marker", "because")
RESPONSE_FIELDS = ("rationale", "answer", "text")
QUESTION_FIELDS = ("gold", "choice")
FIELDS = FORMAT_FIELDS + RESPONSE_FIELDS + QUESTION_FIELDS

_ANSWER = re.compile(r"(?<!{){(answer|gold|choice|text)}")  # the answer in the template of a target

RECIPES: dict[str, Recipe] = {
    "scotd": Recipe(),
    "label": Recipe({"train": Part(target="{gold}")}),
    "teacher_label": Recipe({"train": Part(target="{answer}")}),
    "answer_first": Recipe({"train": Part(target="{answer}{because}{rationale}")}, parse_as="answer_first"),
    "step_by_step": Recipe(
        {
            "predict": Part("predict: {question}", "{choice}", weight=0.5),
            "explain": Part("explain: {question}", "{rationale}", weight=0.5),
        },
        prompt="predict: {question}",
        parse_as="choice",
    ),
    "rationale": Recipe({"train": Part(target="{rationale}")}, parse_as="rationale"),
    "infer": Recipe(
        {"train": Part("{prefix}{question}{rationale_prefix}{rationale}{suffix}", "{gold}")},
        prompt="{prefix}{question}{rationale_prefix}{rationale}{suffix}",
    ),
    "text": Recipe({"train": Part(target="{text}")}),
}

# Prompts, each with its targets: pairs (sample index, text).
TrainingExamples = list[tuple[str, list[tuple[int, str]]]]


def find(name: str, custom: Mapping[str, Recipe], where: str = "recipe") -> Recipe:
    """Returns a recipe by name.

    Args:
      name: a built-in recipe or a key of `custom`, which takes precedence.
      custom: the recipes of the config.
      where: the config key that names the recipe, for messages.

    Raises:
      InputError: on an unknown name, a recipe without parts, an unknown template field or a non-positive weight.
    """
    recipes = RECIPES | dict(custom)
    if name not in recipes:
        raise InputError(f"{where}: {name!r} is not a recipe; {did_you_mean(name, recipes)}")
    recipe = recipes[name]
    if not recipe.parts:
        raise InputError(f"config.recipes.{name}.parts: a recipe has at least one part")
    templates = {"prompt": recipe.prompt}
    for key, part in recipe.parts.items():
        templates |= {f"parts.{key}.prompt": part.prompt, f"parts.{key}.target": part.target}
        if not part.weight > 0:
            raise InputError(f"config.recipes.{name}.parts.{key}.weight: expected more than 0, found {part.weight}")
    for key, template in templates.items():
        _check(template, f"config.recipes.{name}.{key}")
    if unknown := template_fields(recipe.prompt) & {"answer", "text", *QUESTION_FIELDS}:
        raise InputError(f"config.recipes.{name}.prompt: {{{min(unknown)}}} is not known when a student is prompted")
    return recipe


def before_training(recipe: Recipe) -> Recipe:
    """Returns the recipe for prompting a student's model before it is trained.

    This is `recipe` itself if its prompt is the question alone, else "scotd": prefixes and provided rationales mean
    nothing to a model that was not trained on them.
    """
    return recipe if recipe.prompt == RECIPES["scotd"].prompt else RECIPES["scotd"]


def training_examples(
    part: Part, prompt_format: PromptFormat, question: Question, responses: Sequence[Response]
) -> TrainingExamples:
    """Returns the examples of one part of a recipe for a question and its responses.

    Every target ends with the format's end string.

    Raises:
      InputError: if the part needs a gold answer and the question has none.
    """
    if question.answer is None and (missing := template_fields(part.prompt, part.target) & set(QUESTION_FIELDS)):
        raise InputError(f"question {question.id!r} has no gold answer, but its recipe uses {{{min(missing)}}}")

    def target(fields: Mapping[str, str]) -> str:
        return part.target.format_map(fields) + prompt_format.end

    if not template_fields(part.prompt, part.target) & set(RESPONSE_FIELDS):
        fields = _field_values(prompt_format, question)
        return [(part.prompt.format_map(fields), [(0, target(fields))])]
    pairs = [(_field_values(prompt_format, question, r.rationale, r.answer, r.text), r.sample_index) for r in responses]
    if template_fields(part.prompt) & set(RESPONSE_FIELDS):
        return [(part.prompt.format_map(fields), [(index, target(fields))]) for fields, index in pairs]
    prompt = part.prompt.format_map(_field_values(prompt_format, question))
    return [(prompt, [(index, target(fields)) for fields, index in pairs])] if pairs else []


def build_prompt(recipe: Recipe, prompt_format: PromptFormat, question: Question, rationale: str | None = None) -> str:
    """Returns the prompt for a student of the recipe."""
    return recipe.prompt.format_map(_field_values(prompt_format, question, rationale))


def parse_response(recipe: Recipe, prompt_format: PromptFormat, text: str, question: Question) -> Parsed:
    """Parses the response of a student of the recipe into rationale and answer."""
    if recipe.parse_as == "response":
        return prompt_format.parse(text, question)
    text = prompt_format.truncate(text)
    if recipe.parse_as == "rationale":
        return Parsed(text.strip(), None)
    if recipe.parse_as == "choice":
        return Parsed(None, choice_with_text(text, question))
    return prompt_format.parse_answer_first(text, question)


def answer_target(recipe: Recipe) -> str | None:
    """Returns the target template of the part with the recipe's own prompt and an answer; None if there is none."""
    targets = (part.target for part in recipe.parts.values() if part.prompt == recipe.prompt)
    return next((target for target in targets if _ANSWER.search(target)), None)


def generates_rationale(recipe: Recipe) -> bool:
    """Returns whether a student of the recipe generates a rationale before its answer."""
    found = _ANSWER.search(target := answer_target(recipe) or "")
    return bool(found) and (found[1] == "text" or "rationale" in template_fields(target[: found.start()]))


def choice_responses(
    recipe: Recipe, prompt_format: PromptFormat, question: Question, rationale: str | None = None
) -> dict[str, str]:
    """Returns the response that gives each answer to a multiple-choice question, by answer.

    A response is the recipe's training target with this answer, up to a rationale that would follow the answer.

    Args:
      recipe: a recipe with an `answer_target`.
      prompt_format: the format of its prompts.
      question: a question with choices and a gold answer.
      rationale: the rationale before the answer.
    """
    responses = {}
    for form, choice in zip(answer_forms(question), question.choices, strict=True):
        answer = choice_with_text(choice, question) if recipe.parse_as == "choice" else form
        before, from_answer = _answer_response(recipe, prompt_format, question, rationale, form, choice)
        responses[answer or form] = before + from_answer
    return responses


def gold_response(recipe: Recipe, prompt_format: PromptFormat, question: Question, rationale: str) -> tuple[str, str]:
    """Returns the response that gives the gold answer after a rationale, and the part of it before the answer.

    Args:
      recipe: a recipe that generates a rationale before the answer.
      prompt_format: the format of its prompts.
      question: a question with a gold answer.
      rationale: the rationale.
    """
    assert question.answer is not None
    choice = choice_text(question)
    before, from_answer = _answer_response(recipe, prompt_format, question, rationale, question.answer, choice)
    response = before + from_answer
    if "text" in template_fields(answer_target(recipe) or ""):
        before += prompt_format.lines(f"{rationale.strip()}{prompt_format.marker}")
    return response, before


def _answer_response(
    recipe: Recipe, prompt_format: PromptFormat, question: Question, rationale: str | None, form: str, choice: str
) -> tuple[str, str]:
    """The response that gives an answer: its part before the answer, and the rest."""
    target = answer_target(recipe)
    assert target is not None, "checked before any work"
    found = _ANSWER.search(target)
    assert found is not None
    from_answer, rationale_follows, _ = target[found.start() :].partition("{rationale}")
    end = "" if rationale_follows else prompt_format.end
    before_answer = f"{(rationale or '').strip()}{prompt_format.marker}"
    fields = _field_values(prompt_format, question, rationale, form, before_answer + form)
    fields |= {"gold": form, "choice": choice}
    return target[: found.start()].format_map(fields), from_answer.format_map(fields) + end


def needs_rationale(recipe: Recipe) -> bool:
    """Returns whether prompts for a student of the recipe contain a rationale."""
    return "rationale" in template_fields(recipe.prompt)


def trains_on_rationales(recipe: Recipe) -> bool:
    """Returns whether a target of the recipe contains a rationale."""
    return any("rationale" in template_fields(part.target) for part in recipe.parts.values())


def uses_fields(recipe: Recipe, *fields: str) -> bool:
    """Returns whether a part of the recipe uses one of the fields."""
    return any(template_fields(part.prompt, part.target) & set(fields) for part in recipe.parts.values())


def template_fields(*templates: str) -> set[str]:
    """Returns the fields that the templates use."""
    return {field for template in templates for _, field, _, _ in string.Formatter().parse(template) if field}


def literal_text(recipe: Recipe, prompt_format: PromptFormat) -> str:
    """Returns the literal words of the templates, for training a word-level tokenizer."""
    templates = [recipe.prompt, *(t for part in recipe.parts.values() for t in (part.prompt, part.target))]
    pieces = {"rationale_prefix": prompt_format.rationale_prefix, "because": prompt_format.because}
    parsed = [piece for template in templates for piece in string.Formatter().parse(template)]
    return " ".join(literal + " " + pieces.get(field or "", "") for literal, field, _, _ in parsed)


def _field_values(
    prompt_format: PromptFormat,
    question: Question,
    rationale: str | None = None,
    answer: str | None = None,
    text: str = "",
) -> dict[str, str]:
    return {
        "prompt": prompt_format.prompt(question),
        "prefix": prompt_format.question_prefix,
        "question": prompt_format.question(question),
        "suffix": prompt_format.answer_prefix,
        "rationale_prefix": prompt_format.rationale_prefix,
        "marker": prompt_format.marker,
        "because": prompt_format.because,
        "rationale": prompt_format.paragraph((rationale or "").strip()),
        "answer": answer or "",
        "text": prompt_format.lines(text),
        "gold": question.answer or "",
        "choice": choice_text(question),
    }


def _check(template: str, where: str) -> None:
    try:
        fields = template_fields(template)
    except ValueError as error:
        raise InputError(f"{where}: {template!r} is not a valid template ({error}); double a literal brace") from None
    for field in sorted(fields):
        if field not in FIELDS:
            new = RENAMED_TEMPLATE_FIELDS.get(field)
            hint = f"it is now called {new!r}" if new else did_you_mean(field, FIELDS)
            raise InputError(f"{where}: unknown field {{{field}}}; {hint}")
