"""The Python API: questions, models, sampling, evaluation and export, without a work directory.

The jobs of the command line use the same functions, and add resumable artefacts on disk, several hosts, and reports.
Training is in api_training.py.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
from etils import epath

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.evaluation.scoring import score as score_responses
from scotd_jax.hub.hub_files import pin
from scotd_jax.jobs.generation.local import PromptedModel
from scotd_jax.jobs.generation.prompting import PromptBuilder, PromptSettings
from scotd_jax.models import api, registry
from scotd_jax.models.hf import export, loading
from scotd_jax.rationales import filters
from scotd_jax.rationales.ledger import Ledger
from scotd_jax.records import Prompt, Question, Response
from scotd_jax.reporting.cards import model_card
from scotd_jax.sampling.decode_loop import cast_for_inference
from scotd_jax.tasks import recipes
from scotd_jax.tasks.base import LoadedTask, SplitTask
from scotd_jax.tasks.exemplars import few_shot_prefix, load_exemplars
from scotd_jax.tasks.prompt_formats import PromptFormat, get_prompt_format
from scotd_jax.tasks.question_loader import QuestionsById
from scotd_jax.tasks.registry import load_task as load_configured_task
from scotd_jax.tokenization import Tokenizer

WORD_MULTIPLE = 8  # the vocabulary size of a random model is a multiple of this, so that it can be sharded


def load_task(kind: str, *, path: str = "", limit: int = 0, seed: int = 0, **options: Any) -> LoadedTask:
    """Loads a task: named splits of questions, a prompt format, and gold rationales if the task has any.

    Args:
      kind: name of a task ("world", "commonsenseqa", "gsm8k", ...) or path of a Python file that defines one.
      path: folder of the task's files, or "datasets:NAME" for the Hugging Face Hub. The embedded world needs none.
      limit: number of questions to keep from the start of every split; 0 keeps all.
      seed: seed of a generated task.
      **options: options of the task.

    Returns:
      The task. `task.questions(split)` returns its questions and `task.gold(split)` its gold rationales as responses.

    Raises:
      InputError: if there is no such task, or its files are missing.
    """
    name = "task" if kind.endswith(".py") else kind
    return load_configured_task(name, c.Task(kind=kind, path=path, limit=limit, options=options), seed)


def load_pretrained(
    path: str,
    task: LoadedTask | None = None,
    *,
    recipe: str = "scotd",
    few_shot: int = 0,
    precision: Literal["bfloat16", "float32"] = "bfloat16",
) -> PromptedModel:
    """Loads a model with its tokenizer from a Hugging Face folder or the Hugging Face Hub (OPT, T5, Llama, Qwen, ...).

    Args:
      path: a folder with config, weights and tokenizer, or the name of a model on the Hub: "facebook/opt-125m", or
        "facebook/opt-125m@REVISION".
      task: task whose prompt format is used; by default the format is "t5" for T5 models and "scotd" for others.
      recipe: name of the recipe that defines prompts and the parsing of responses.
      few_shot: number of the task's few-shot examples before every prompt.
      precision: compute dtype. Parameters are float32.

    Returns:
      The model on the default device.

    Raises:
      InputError: if there is no such folder or model, its files are incomplete, its architecture is not supported, or
        the task has fewer than `few_shot` examples.
    """
    pinned = pin(path)  # config, weights and tokenizer of one commit
    config, params = loading.load_pretrained(pinned)
    model = registry.build(config, api.Precision(precision))
    prompts = _prompt_builder(task, config.kind, recipe, few_shot)
    return PromptedModel(path, model, jax.device_put(params), Tokenizer.load(pinned), prompts)


def random_model(
    architecture: str,
    task: LoadedTask,
    *,
    recipe: str = "scotd",
    seed: int = 0,
    precision: Literal["bfloat16", "float32"] = "bfloat16",
    **overrides: Any,
) -> PromptedModel:
    """Returns a model with random weights and a word-level tokenizer trained on the texts of a task.

    Args:
      architecture: name of a preset ("opt-tiny", "t5-small", ...).
      task: the task.
      recipe: name of the recipe that defines prompts and the parsing of responses.
      seed: seed of the weights.
      precision: compute dtype. Parameters are float32.
      **overrides: fields of the preset to replace, e.g. `hidden_size=64`.

    Raises:
      InputError: if the preset, or an overridden field, is unknown.
    """
    words = recipes.literal_text(recipes.find(recipe, {}), task.format)
    tokenizer = Tokenizer.train_word_level([words, *task.texts()])
    vocab_size = -(-tokenizer.size // WORD_MULTIPLE) * WORD_MULTIPLE
    config = registry.config_for(architecture, {"vocab_size": vocab_size} | overrides)
    model = registry.build(config, api.Precision(precision))
    prompts = _prompt_builder(task, config.kind, recipe, 0)
    return PromptedModel(architecture, model, model.init(jax.random.key(seed)), tokenizer, prompts)


def sample(
    model: PromptedModel,
    questions: Sequence[Question],
    *,
    n: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    max_new_tokens: int = 128,
    batch_size: int = 32,
    bucket: int = 64,
    seed: int = 0,
) -> list[Response]:
    """Samples responses to questions.

    The noise of a response depends only on the seed, its question and its index, not on the batch or other questions.

    Args:
      model: the model.
      questions: the questions.
      n: responses per question.
      temperature: sampling temperature; 0 is greedy.
      top_k: number of most likely tokens to sample from; 0 for all.
      top_p: total probability of the most likely tokens to sample from.
      max_new_tokens: maximum length of a response in tokens.
      batch_size: questions that are decoded at once, each with `n` responses.
      bucket: prompts are padded to a multiple of this many tokens; each multiple is compiled once.
      seed: seed of the sampling noise.

    Returns:
      `n` responses per question, in the order of the questions.

    Raises:
      InputError: if a prompt and its response exceed the model's position table, or two questions share an id.
    """
    batch_size = min(batch_size, max(1, len(questions)))
    sampling = c.Sampling(n, temperature, top_k, top_p, max_new_tokens, batch_size, bucket)
    by_id = questions_by_id(model, questions)
    model = dataclasses.replace(model, params=cast_for_inference(model.model, model.params))
    sampler = model.sampler(by_id, sampling, seed)
    batches = sampler(model.requests(by_id, n))
    rows = [row for samples in batches for row in model.responses(samples, by_id, sampling)]
    position = {id_: i for i, id_ in enumerate(by_id)}
    return sorted(rows, key=lambda row: (position[row.question_id], row.sample_index))


def filter_responses(
    responses: Sequence[Response],
    *,
    keep: Literal["correct", "all", "wrong"] = "correct",
    max_per_question: int = 0,
    dedup: bool = False,
) -> list[Response]:
    """Selects responses to train on, as the corpora of the command line do.

    Truncated responses and responses without an answer are always dropped.

    Args:
      responses: the responses.
      keep: keeps responses with a correct answer, with any answer, or with a wrong one.
      max_per_question: maximum number of responses to keep per question, the first ones; 0 for all.
      dedup: whether to drop a response whose text equals that of an earlier one.

    Returns:
      The kept responses, grouped by question.

    Raises:
      InputError: if `keep` needs gold answers and a question has none.
    """
    settings = c.Corpus(keep=keep, cap=max_per_question, dedup=dedup)
    by_question: dict[str, list[Response]] = {}
    for response in responses:
        by_question.setdefault(response.question_id, []).append(response)
    kept = []
    for rows in by_question.values():
        # Counts of 0 tokens pass all length limits; only `make_batches` has a tokenizer for these.
        kept += filters.filter_responses(rows, settings, lambda some: [(0, 0)] * len(some), Ledger())
    return kept


def score(questions: Sequence[Question], responses: Sequence[Response], confidence: float = 0.95) -> dict[str, Any]:
    """Scores responses to questions.

    Args:
      questions: the questions.
      responses: the same number of responses to every question.
      confidence: confidence level of the interval.

    Returns:
      A dict with "accuracy" (0 to 1), its Wilson "interval", "n" (the number of questions), "chance",
      "format_failure_rate", "truncation_rate", "mean_tokens", and "by_tag".

    Raises:
      InputError: if a question has no response or no gold answer.
    """
    return score_responses(questions, responses, confidence)


def evaluate(
    model: PromptedModel,
    questions: Sequence[Question],
    *,
    max_new_tokens: int = 128,
    batch_size: int = 32,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Answers questions greedily and scores the answers.

    Args:
      model: the model.
      questions: questions with gold answers.
      max_new_tokens: maximum length of a response in tokens.
      batch_size: questions that are decoded at once.
      confidence: confidence level of the interval.

    Returns:
      The results of `score`: "accuracy" (0 to 1), its "interval", and more.
    """
    rows = sample(model, questions, temperature=0.0, max_new_tokens=max_new_tokens, batch_size=batch_size)
    return score(questions, rows, confidence)


def save_pretrained(model: PromptedModel, folder: str, *, max_new_tokens: int = 128) -> None:
    """Saves a model with its tokenizer and a model card in the Hugging Face format, for PyTorch and `load_pretrained`.

    Args:
      model: the model.
      folder: folder to write.
      max_new_tokens: default number of tokens that transformers generates.

    Raises:
      InputError: as `models.hf.export.export_pretrained`, for example if the disk is full.
    """
    example = Question("example", "example", "example", "QUESTION")
    ((question, task),) = questions_by_id(model, [example]).values()
    card = model_card(
        epath.Path(folder).name,
        kind=model.model.config.kind,
        about="A small language model trained with scotd_jax.",
        prompt=model.prompt(question, task),
        results={},
        facts={},
        stops=model.prompts.format_for(task).stops,
        max_new_tokens=max_new_tokens,
    )
    export.export_pretrained(
        folder, model.model.config, model.params, model.tokenizer, card, max_new_tokens=max_new_tokens
    )


def _prompt_builder(task: LoadedTask | None, kind: str, recipe: str, few_shot: int) -> PromptBuilder:
    """A PromptBuilder with the format of the task, or without a task the default format of the kind of model."""
    prompt_format = task.format if task is not None else get_prompt_format("t5" if kind == "t5" else "scotd")
    if few_shot and task is None:
        raise InputError(f"few_shot={few_shot}: pass the task that has the examples")
    exemplars = load_exemplars("", task)[:few_shot] if few_shot and task is not None else []
    if task is not None and len(exemplars) < few_shot:
        raise InputError(f"few_shot={few_shot}: task {task.name!r} has {len(exemplars)} examples")

    def few_shot_prompt(task: LoadedTask, prompt_format: PromptFormat, count: int, chat: bool) -> Prompt:
        del task, count, chat
        return few_shot_prefix(prompt_format, exemplars)

    settings = PromptSettings(recipes.find(recipe, {}), prompt_format, few_shot, chat=False)
    return PromptBuilder(settings, few_shot_prompt)


def questions_by_id(model: PromptedModel, questions: Sequence[Question]) -> QuestionsById:
    """Returns the questions by id, each with a task in the model's format.

    Raises:
      InputError: if two questions share an id.
    """
    prompt_format = model.prompts.settings.format
    assert prompt_format is not None, "models of this API have a prompt format"
    tasks = {question.task: SplitTask(question.task, prompt_format, {}) for question in questions}
    found = {question.id: (question, tasks[question.task]) for question in questions}
    if len(found) < len(questions):
        raise InputError(f"{len(questions) - len(found)} questions share an id with another; ids must be unique")
    return found
