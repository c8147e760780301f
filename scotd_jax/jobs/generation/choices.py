"""Reads answers by the likelihood of the choices: the answer is the most likely choice after the rationale.

Such an answer is always one that was offered. The sum of the log-probabilities of a choice's tokens decides, as in the
metric `acc` of lm-eval's multiple-choice tasks. Without a rationale, the choices directly follow the prompt.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from etils import epath

from scotd_jax.config import Sampling
from scotd_jax.distributed import hosts
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.local import PromptedModel, RationalesById
from scotd_jax.jobs.generation.writing import write_missing
from scotd_jax.layout import shared_length
from scotd_jax.records import Response
from scotd_jax.sampling.likelihood import Candidates, score_candidates
from scotd_jax.tasks.prompt_formats import is_correct
from scotd_jax.tasks.question_loader import QuestionsById
from scotd_jax.tasks.recipes import choice_responses, generates_rationale

Key = tuple[str, int]  # question id and sample index


def write_choices(
    context: RunContext,
    model: PromptedModel,
    questions: QuestionsById,
    responses: Iterable[Response],
    sampling: Sampling,
    folder: epath.Path,
    set_name: str,
    stem: str,
) -> list[epath.Path]:
    """Writes every response with the most likely choice as its answer.

    Args:
      context: the run.
      model: the model that compares the choices; the one that generated the responses.
      questions: the questions, all of them with choices.
      responses: generated responses, or `unanswered` ones for a recipe without a rationale before the answer.
      sampling: sampling settings, of which only `batch_size` and `bucket` are used.
      folder: folder of the response files.
      set_name: name of the question set, for the progress line.
      stem: first part of the file names.

    Returns:
      The files of the responses.
    """
    by_key = {row.key: row for row in responses}

    def missing(done: Set[Key]) -> tuple[int, Iterator[list[Response]]]:
        rows = hosts.local_share([row for key, row in by_key.items() if key not in done])
        batches = score_choices(context, model, questions, rows, sampling)
        chosen = ([_chosen(model, by_key[key], questions, log_p) for key, log_p in batch] for batch in batches)
        return len(rows), chosen

    label = f"  {model.name}, choices"
    return write_missing(context, missing, folder, stem, list(questions), label=label, scope=set_name)


def unanswered(model: PromptedModel, questions: QuestionsById, rationales: RationalesById | None) -> list[Response]:
    """Returns an empty response to every question, or to every provided rationale of a question."""
    provided = {id_: [None] if rationales is None else rationales[id_] for id_ in questions}
    return [
        Response(id_, index, "", rationale, None, None, "stop", 0.0, 0, model.name, "")
        for id_, texts in provided.items()
        for index, rationale in enumerate(texts)
    ]


def score_choices(
    context: RunContext,
    model: PromptedModel,
    questions: QuestionsById,
    responses: Iterable[Response],
    sampling: Sampling,
) -> Iterator[list[tuple[Key, Mapping[str, float]]]]:
    """Yields batches of (key, log-probability in nats of every answer that the question offers)."""
    answers: dict[Any, list[str]] = {}
    candidates = []
    for row in responses:
        answers[row.key], scored = _candidates(model, row, questions)
        candidates.append(scored)
    sizes: dict[str, Any] = {
        "batch_size": sampling.batch_size,
        "bucket": sampling.bucket,
        "mesh": context.sampling_mesh,
    }
    for batch in score_candidates(model.model, model.params, candidates, **sizes):
        yield [(key, dict(zip(answers[key], map(float, log_p), strict=True))) for key, log_p in batch]  # pyrefly: ignore[invalid-yield]


def _candidates(model: PromptedModel, row: Response, questions: QuestionsById) -> tuple[list[str], Candidates]:
    """The answers that a question offers, and the token ids of the responses that end with them."""
    question, task = questions[row.question_id]
    recipe, form = model.prompts.recipe, model.prompts.format_for(task)
    provided, generated = row.rationale, None
    if generates_rationale(recipe):
        # Without the marker of an answer, the whole text is taken as the rationale.
        provided, generated = None, form.truncate(row.text) if row.rationale is None else row.rationale
    texts = choice_responses(recipe, form, question, generated)
    # Every response is encoded as one text, like a training target, and ends with the format's end string or the end
    # token.
    last = [] if form.end else [model.tokenizer.end_id]
    ids = [model.tokenizer.encode(text) + last for text in texts.values()]
    prompt_ids = model.prompt_ids(question, task, provided)
    # At least the last token of every response is scored.
    shared = 0 if generated is None else shared_length(*(tokens[:-1] for tokens in ids))
    return list(texts), Candidates(row.key, prompt_ids, [tokens[shared:] for tokens in ids], ids[0][:shared])


def _chosen(model: PromptedModel, row: Response, questions: QuestionsById, log_p: Mapping[str, float]) -> Response:
    """The response with the most likely choice as its answer, which is also the text if nothing was generated."""
    answer = max(log_p, key=log_p.__getitem__)
    if not row.num_tokens:
        tokens = len(model.tokenizer.encode(answer)) + 1
        row = dataclasses.replace(row, text=answer, logprob=round(log_p[answer], 4), num_tokens=tokens)
    sampling = f"{row.sampling}, choices".removeprefix(", ")
    correct = is_correct(answer, questions[row.question_id][0])
    return dataclasses.replace(row, answer=answer, correct=correct, sampling=sampling)
