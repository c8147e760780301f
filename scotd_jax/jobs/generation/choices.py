"""Reads answers by the likelihood of the choices: the answer is the most likely choice after the rationale.

Such an answer is always one that was offered. The sum of the log-probabilities of a choice's tokens decides, as in the
metric `acc` of lm-eval's multiple-choice tasks. Without a rationale, the choices directly follow the prompt. The scores
of all choices are stored as candidates (`evaluation.choice_likelihoods`).
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

from etils import epath

from scotd_jax.config import Sampling
from scotd_jax.distributed import hosts
from scotd_jax.evaluation.choice_likelihoods import candidate_index, group_candidates
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.local import PromptedModel, RationalesById
from scotd_jax.jobs.generation.writing import write_missing
from scotd_jax.layout import shared_length
from scotd_jax.rationales.store import read_responses
from scotd_jax.records import Response
from scotd_jax.sampling.batch_sizes import scored_prompts_per_batch
from scotd_jax.sampling.likelihood import Candidates, score_candidates
from scotd_jax.tasks.prompt_formats import is_correct
from scotd_jax.tasks.question_loader import QuestionsById
from scotd_jax.tasks.recipes import choice_responses, generates_rationale

Key = tuple[str, int]  # question id and sample index


class ChoiceScore(NamedTuple):
    """Log-probability of a choice in nats, and the number of tokens that it is the sum of."""

    log_p: float
    num_tokens: int


def write_choices(
    context: RunContext,
    model: PromptedModel,
    questions: QuestionsById,
    responses: Iterable[Response],
    sampling: Sampling,
    folder: epath.Path,
    set_name: str,
    stem: str,
) -> tuple[list[epath.Path], list[epath.Path]]:
    """Writes every response with the most likely choice as its answer.

    Args:
      context: the run.
      model: the model that compares the choices; the one that generated the responses.
      questions: the questions, all of them with choices.
      responses: generated responses, or `unanswered` ones for a recipe without a rationale before the answer.
      sampling: sampling settings, of which only `batch_size` and `bucket` are used.
      folder: folder of the response files.
      set_name: name of the question set, for the progress line.
      stem: first part of the file names; those of the candidates end with "candidates" in place of "responses".

    Returns:
      The files of the responses, and those of the candidates.
    """
    by_key = {row.key: row for row in responses}
    order = list(questions)

    def missing_candidates(done: Set[Key]) -> tuple[int, Iterator[list[Response]]]:
        # The candidates of a response are written together, so that the first of them stands for all.
        first = {key: (key[0], candidate_index(questions[key[0]][0], key[1], 0)) for key in by_key}
        rows = context.data_group.share([row for key, row in by_key.items() if first[key] not in done])
        count = sum(len(questions[row.question_id][0].choices) for row in rows)
        return count, _scored_candidates(context, model, questions, rows, sampling)

    stem_of_candidates = f"{stem.removesuffix('responses')}candidates"
    label = f"  {model.name}, choices"
    files = write_missing(
        context, missing_candidates, folder, stem_of_candidates, order, by_group=True, label=label, scope=set_name
    )
    candidates = group_candidates((question for question, _ in questions.values()), read_responses(files))

    def missing(done: Set[Key]) -> tuple[int, Iterator[list[Response]]]:
        rows = hosts.local_share([row for key, row in by_key.items() if key not in done])
        return len(rows), iter([[_chosen(model, row, candidates[row.key]) for row in rows]])

    label = "  most likely choices"
    return write_missing(context, missing, folder, stem, order, label=label, scope=set_name), files


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
) -> Iterator[list[tuple[Key, Mapping[str, ChoiceScore]]]]:
    """Yields batches of (key, score of every answer that the question offers)."""
    answers: dict[Any, list[tuple[str, int]]] = {}
    prompts = []
    for row in responses:
        texts, scored = _choices_after(model, row, questions)
        answers[row.key] = [(text, len(ids)) for text, ids in zip(texts, scored.responses, strict=True)]
        prompts.append(scored)
    for batch in score_candidates(
        model.model,
        model.params,
        prompts,
        batch_size=scored_prompts_per_batch(sampling),
        bucket=sampling.bucket,
        mesh=context.sampling_mesh,
    ):
        yield [(key, _by_answer(answers[key], log_p.tolist())) for key, log_p in batch]  # pyrefly: ignore[invalid-yield]


def _by_answer(answers: Iterable[tuple[str, int]], log_p: Iterable[float]) -> dict[str, ChoiceScore]:
    return {text: ChoiceScore(p, tokens) for (text, tokens), p in zip(answers, log_p, strict=True)}


def _choices_after(model: PromptedModel, row: Response, questions: QuestionsById) -> tuple[list[str], Candidates]:
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


def _scored_candidates(
    context: RunContext,
    model: PromptedModel,
    questions: QuestionsById,
    responses: Iterable[Response],
    sampling: Sampling,
) -> Iterator[list[Response]]:
    """Scores the choices after every response, and yields the candidates of one batch at a time."""
    for batch in score_choices(context, model, questions, responses, sampling):
        yield [row for key, scores in batch for row in _candidates(model, questions, key, scores)]


def _candidates(
    model: PromptedModel, questions: QuestionsById, key: Key, scores: Mapping[str, ChoiceScore]
) -> Iterator[Response]:
    """A record for every choice after one response."""
    question, _ = questions[key[0]]
    for choice, (answer, score) in enumerate(scores.items()):
        index, correct = candidate_index(question, key[1], choice), is_correct(answer, question)
        scored = (float(score.log_p), score.num_tokens, model.name, "scored choice")
        yield Response(question.id, index, answer, None, answer, correct, "stop", *scored)


def _chosen(model: PromptedModel, row: Response, candidates: Sequence[Response]) -> Response:
    """The response with the most likely choice as its answer, which is also the text if nothing was generated."""
    best = max(candidates, key=lambda candidate: candidate.logprob)
    if not row.num_tokens:
        tokens = len(model.tokenizer.encode(best.text)) + 1
        row = dataclasses.replace(row, text=best.text, logprob=round(best.logprob, 4), num_tokens=tokens)
    sampling = f"{row.sampling}, choices".removeprefix(", ")
    return dataclasses.replace(row, answer=best.answer, correct=best.correct, sampling=sampling)
