"""The Python API of training: batches of questions and responses, and updates of a model on them."""

import contextlib
import dataclasses
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from etils import epath

from scotd_jax import config as c
from scotd_jax.api import questions_by_id
from scotd_jax.corpus.batching.loader import open_batches, prefetch_batches
from scotd_jax.corpus.building import build_shards, merge_shards, plan_corpus
from scotd_jax.corpus.question_examples import PromptedQuestion
from scotd_jax.distributed.mesh import batch_shards, make_mesh
from scotd_jax.jobs.generation.local import PromptedModel
from scotd_jax.models.position_table import check_positions
from scotd_jax.rationales.store import ResponseWriter
from scotd_jax.records import Question, Response
from scotd_jax.training.checkpoints import load_params
from scotd_jax.training.loop import BatchIterator
from scotd_jax.training.loop import train as train_loop
from scotd_jax.training.optimizer import make_optimizer


@dataclasses.dataclass(frozen=True)
class TrainingBatches:
    """An endless iterator of batches with the settings that `train` needs, as returned by `make_batches`."""

    iterator: BatchIterator
    batch_size: int
    group_size: int
    parts: tuple[tuple[str, float], ...]


def make_batches(
    model: PromptedModel,
    questions: Sequence[Question],
    responses: Sequence[Response] = (),
    *,
    batch_size: int = 16,
    group_size: int = 1,
    keep: Literal["correct", "all", "wrong"] = "correct",
    max_prompt_tokens: int = 700,
    max_response_tokens: int = 256,
    seed: int = 0,
    folder: str = "",
) -> TrainingBatches:
    """Encodes questions and responses for a student and batches them.

    Args:
      model: the student, whose tokenizer, recipe and prompt format are used.
      questions: the questions.
      responses: responses to the questions; () for the recipe "label".
      batch_size: questions per update.
      group_size: responses per question in a batch, which share one prompt.
      keep: keeps responses with a correct answer, with any answer, or with a wrong one.
      max_prompt_tokens: questions with longer prompts are dropped.
      max_response_tokens: longer responses are dropped.
      seed: seed of the order of the questions and of the drawn responses.
      folder: folder to which the TFRecord corpus is written; "" for a temporary one, which is removed with the batches.

    Returns:
      The batches.

    Raises:
      InputError: if no response passes the filters, or a sequence exceeds the model's position table.
    """
    limits = {"max_prompt_tokens": max_prompt_tokens, "max_response_tokens": max_response_tokens}
    settings = c.Corpus(keep=keep, decontaminate=0, shards=1, **limits)
    with contextlib.ExitStack() as stack:
        root = epath.Path(folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="scotd_jax_")))
        _write_corpus(root, settings, model, questions, responses)
        parts = model.prompts.recipe.parts
        batches = open_batches(
            root / "corpus",
            tuple(parts),
            batch_size=batch_size,
            group_size=group_size,
            start_token=model.model.start_token,
            seed=seed,
            row_multiple=batch_shards(make_mesh(c.Mesh())),
        )
        weights = tuple((name, part.weight) for name, part in parts.items())
        training_batches = TrainingBatches(prefetch_batches(batches), batch_size, group_size, weights)
        weakref.finalize(training_batches, stack.pop_all().close)
    return training_batches


def _write_corpus(
    root: epath.Path,
    settings: c.Corpus,
    model: PromptedModel,
    questions: Sequence[Question],
    responses: Sequence[Response],
) -> None:
    """Writes ROOT/corpus. Raises InputError like `make_batches`."""
    by_id = questions_by_id(model, questions)
    files = []
    if responses:
        writer = ResponseWriter(root / "responses")
        writer.write(responses)
        files = [writer.merge(list(by_id), None)]
    recipe, encoder = model.prompts.recipe, model.tokenizer.encoder(model.model.config.kind)
    prompted = [
        PromptedQuestion(question, model.prompts.format_for(task), model.prompts.few_shot(task))
        for question, task in by_id.values()
    ]
    plan = plan_corpus(root / "corpus", settings, recipe, prompted, files, encoder)
    for _ in build_shards(plan):
        pass
    for counts in merge_shards(plan, {"model": model.name}).counts.values():
        prompt, response = counts["prompt_tokens_max"], counts["response_tokens_max"]
        check_positions(
            model.model.config,
            prompt + response,
            f"prompts of up to {prompt} tokens and responses of up to {response}",
            "lower max_prompt_tokens and max_response_tokens",
        )


def train(
    model: PromptedModel,
    batches: TrainingBatches,
    *,
    steps: int,
    learning_rate: float = 1e-4,
    optimizer: Literal["adamw", "adafactor", "muon"] = "adamw",
    warmup_steps: int = 0,
    seed: int = 0,
    log: Callable[[int, Mapping[str, float]], None] | None = None,
    log_every: int = 20,
) -> PromptedModel:
    """Trains a model on all devices.

    Args:
      model: the initial model, which is not changed.
      batches: batches from `make_batches`.
      steps: number of updates.
      learning_rate: peak learning rate; it decays linearly to 0.
      optimizer: name of the optimizer.
      warmup_steps: updates of linear warm-up.
      seed: seed of dropout and other noise.
      log: called with step and metrics ("loss", "grad_norm", ...) every `log_every` updates.
      log_every: updates between two calls of `log`.

    Returns:
      The trained model.

    Raises:
      InputError: if the settings are invalid together or on these devices, or the loss is not finite.
    """
    settings = c.Training(
        steps=steps,
        batch_size=batches.batch_size,
        group_size=batches.group_size,
        optimizer=c.Optimizer(optimizer, learning_rate, warmup_steps=warmup_steps),
        log_every=log_every,
        startup_check=False,
        attention="xla",  # no kernels that the startup check has not compared
    )
    make_optimizer(settings.optimizer, steps)  # raises on invalid settings before any file is written
    with tempfile.TemporaryDirectory(prefix="scotd_jax_") as folder:
        train_loop(
            model.model,
            lambda: jax.tree.map(jnp.copy, model.params),  # the updates donate them
            batches.iterator,
            settings,
            folder,
            mesh=make_mesh(c.Mesh()),
            seed=seed,
            log=log,
            parts=batches.parts,
        )
        params, _ = load_params(f"{folder}/checkpoints", model.model.abstract(), "last")
    return dataclasses.replace(model, params=params)
