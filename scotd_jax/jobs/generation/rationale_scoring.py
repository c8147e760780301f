"""Scores the responses of a set under a student, for the selections that compare them (rationales/student_scores.py).

All texts that are scored for a question follow the same prompt: the training target of every response, the same with
the gold answer where the response has another one, and every sentence of a rationale after the one before it. Each is
scored once.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from scotd_jax.config import Corpus, Sampling
from scotd_jax.jobs.generation.local import PromptedModel
from scotd_jax.layout import shared_length
from scotd_jax.rationales.student_scores import MAX_RANK, StudentScores, rank_surprisal_ratio, sentences
from scotd_jax.records import Question, Response
from scotd_jax.sampling.batch_sizes import scored_prompts_per_batch
from scotd_jax.sampling.likelihood import Candidates
from scotd_jax.sampling.token_scores import TokenScores, score_tokens
from scotd_jax.tasks.base import LoadedTask
from scotd_jax.tasks.question_loader import QuestionsById
from scotd_jax.tasks.recipes import answer_target, gold_response, training_examples

QUESTIONS_PER_WRITE = 64
RESPONSES_PER_PROMPT = 8  # of similar length, in one row of a batch; the prompt is computed once for them

Tokens = tuple[int, ...]


class Span(NamedTuple):
    """Tokens after a prompt, of which those from `begin` on are scored."""

    tokens: Tokens
    begin: int = 0


class ResponseSpans(NamedTuple):
    """What is scored for one response: its training target, the gold answer in it, and its sentences."""

    target: Span
    gold: Span | None
    sentences: list[Span]


def score_rationales(
    model: PromptedModel,
    questions: QuestionsById,
    by_question: Sequence[Sequence[Response]],
    limits: Corpus,
    sampling: Sampling,
    mesh: Mesh | None,
) -> Iterator[list[StudentScores]]:
    """Scores responses, some questions at a time.

    Args:
      model: the student, with a recipe that generates a rationale before the answer.
      questions: the questions.
      by_question: responses to one question each, with rationales and answers.
      limits: corpus of the student; responses beyond its limits on tokens are left out.
      sampling: sampling settings, of which only `batch_size`, here in responses, and `bucket` are used.
      mesh: devices over which prompts are spread.

    Yields:
      The scores of some responses, in the order of the rows.
    """
    for begin in range(0, len(by_question), QUESTIONS_PER_WRITE):
        prompts: dict[str, list[int]] = {}
        spans: dict[tuple[str, int], ResponseSpans] = {}
        for group in by_question[begin : begin + QUESTIONS_PER_WRITE]:
            question, task = questions[group[0].question_id]
            prompt = model.prompt_ids(question, task)
            if len(prompt) > limits.max_prompt_tokens:
                continue
            prompts[question.id] = prompt
            found = {row.key: _response_spans(model, row, question, task) for row in group}
            spans |= {key: s for key, s in found.items() if len(s.target.tokens) <= limits.max_response_tokens}
        scores = _score_texts(model, prompts, spans, sampling, mesh)
        yield [_student_scores(key, of_row, scores) for key, of_row in spans.items()]


def _response_spans(model: PromptedModel, row: Response, question: Question, task: LoadedTask) -> ResponseSpans:
    """The tokens of a response that are scored, encoded like training targets."""
    recipe, form, encode = model.prompts.recipe, model.prompts.format_for(task), model.tokenizer.encode
    end = [] if form.end else [model.tokenizer.end_id]
    part = next(part for part in recipe.parts.values() if part.target == answer_target(recipe))
    ((_, [(_, target)]),) = training_examples(part, form, question, [row])
    gold = None
    if question.answer is not None:
        text, before = gold_response(recipe, form, question, row.rationale or "")
        gold = _span(encode(text) + end, encode(before))
    steps = ["", *sentences(row.rationale or "")]
    windows = [_span(encode(f"{last} {step}".strip()), encode(last)) for last, step in itertools.pairwise(steps)]
    return ResponseSpans(Span(tuple(encode(target) + end)), gold, windows)


def _span(tokens: list[int], before: list[int]) -> Span:
    """The tokens that follow those of `before`; at least the last one."""
    return Span(tuple(tokens), shared_length(tokens[:-1], before))


def _score_texts(
    model: PromptedModel,
    prompts: dict[str, list[int]],
    spans: dict[tuple[str, int], ResponseSpans],
    sampling: Sampling,
    mesh: Mesh | None,
) -> dict[tuple[str, Tokens], TokenScores]:
    """Scores by question id and tokens. Texts of similar length share a row and a compiled program."""
    texts: dict[str, dict[Tokens, None]] = {id_: {} for id_ in prompts}
    for (id_, _), of_row in spans.items():
        all_spans = [of_row.target, *([of_row.gold] if of_row.gold else []), *of_row.sentences]
        texts[id_] |= dict.fromkeys(span.tokens for span in all_spans)
    candidates = []
    for id_, tokens in texts.items():
        ordered = sorted(tokens, key=len)
        for k in range(0, len(ordered), RESPONSES_PER_PROMPT):
            some = ordered[k : k + RESPONSES_PER_PROMPT]
            candidates.append(Candidates((id_, tuple(some)), prompts[id_], some))
    # so that `batch_size` responses fit; every prompt has several
    prompts_per_batch = max(1, scored_prompts_per_batch(sampling) // RESPONSES_PER_PROMPT)
    sizes: dict[str, Any] = {"batch_size": prompts_per_batch, "bucket": sampling.bucket, "mesh": mesh}
    found: dict[tuple[str, Tokens], TokenScores] = {}
    for batch in score_tokens(model.model, model.params, candidates, max_rank=MAX_RANK, **sizes):
        for (id_, some), scores in batch:  # pyrefly: ignore
            found |= {(id_, tokens): of_tokens for tokens, of_tokens in zip(some, scores, strict=True)}
    return found


def _student_scores(
    key: tuple[str, int], spans: ResponseSpans, scores: Mapping[tuple[str, Tokens], TokenScores]
) -> StudentScores:
    def log_p(span: Span) -> np.ndarray:
        return scores[key[0], span.tokens].log_p[span.begin :].astype(np.float64)

    target = scores[key[0], spans.target.tokens]
    local = np.concatenate([log_p(span) for span in spans.sentences])
    return StudentScores(
        *key,
        likelihood=round(float(log_p(spans.target).mean()), 6),
        rank_surprisal=round(rank_surprisal_ratio(target.log_p, target.rank), 6),
        gold_logprob=None if spans.gold is None else round(float(log_p(spans.gold).sum()), 6),
        local_likelihood=round(float(local.mean()), 6),
    )
