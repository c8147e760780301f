"""Accuracy of a set of responses, and the rates of format failures and truncated responses.

Accuracy is over questions: a question with several samples counts with their mean. An answer that cannot be parsed is
wrong and is never left out; the rate of such answers is reported beside the accuracy.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scotd_jax.errors import InputError
from scotd_jax.evaluation import intervals
from scotd_jax.evaluation.answer_distribution import answer_distribution
from scotd_jax.evaluation.outcome_tables import outcome_table
from scotd_jax.evaluation.question_groups import question_clusters
from scotd_jax.evaluation.rationale_text import describe_rationales
from scotd_jax.records import Question, Response


def score(questions: Sequence[Question], responses: Iterable[Response], confidence: float = 0.95) -> dict[str, Any]:
    """Scores the responses of one set as plain JSON values, with rates as fractions.

    Args:
      questions: all questions of the set.
      responses: an equal number of samples for every question, in any order.
      confidence: confidence level of the intervals.

    Returns:
      A dict of
        n: number of questions,
        accuracy, interval: accuracy and its interval (`intervals.accuracy_interval`),
        confidence: as passed,
        samples: number of samples per question,
        chance: accuracy of guessing; None if a question has no choices,
        format_failure_rate: share of responses without a parsable answer,
        truncation_rate: share of responses that reached the token limit,
        mean_tokens: mean length, end token included,
        rationales: `rationale_text.describe_rationales`, None without rationales,
        answers: `answer_distribution.answer_distribution`,
        by_tag: tag -> n, accuracy, interval.

    Raises:
      InputError: like `group_by_question`.
    """
    grouped = group_by_question(questions, responses)
    right = {name: _mean(r.correct for r in group) for name, group in grouped.items()}
    all_responses = [r for group in grouped.values() for r in group]
    clusters = question_clusters(questions)
    tags: dict[str, dict[str, float]] = defaultdict(dict)
    for question in questions:
        for tag in question.tags:
            tags[tag][question.id] = right[question.id]
    return {
        **accuracy_with_interval(right, clusters, confidence),
        "confidence": confidence,
        "samples": len(all_responses) // len(grouped),
        "chance": chance_level(questions),
        "format_failure_rate": _mean(r.answer is None for r in all_responses),
        "truncation_rate": _mean(r.finish_reason == "length" for r in all_responses),
        "mean_tokens": _mean(r.num_tokens for r in all_responses),
        "rationales": describe_rationales(grouped),
        "answers": answer_distribution(questions, grouped),
        "by_tag": {tag: accuracy_with_interval(tagged, clusters, confidence) for tag, tagged in sorted(tags.items())},
    }


def group_by_question(questions: Sequence[Question], responses: Iterable[Response]) -> dict[str, list[Response]]:
    """Groups responses by question id, in the order of `questions`, each group sorted by sample index.

    Raises:
      InputError: if a response belongs to no question or to one without a gold answer, if a question has no response or
        occurs twice, or if the questions have different numbers of samples.
    """
    grouped: dict[str, list[Response]] = {q.id: [] for q in questions}
    if not questions:
        raise InputError("there are no questions to score; check the question sets of the config")
    if len(grouped) != len(questions):
        raise InputError(f"{len(questions) - len(grouped)} questions share their id with another; ids must be unique")
    for response in responses:
        if response.question_id not in grouped:
            raise InputError(f"response to {response.question_id!r}: no such question in this set; evaluate it again")
        if response.correct is None:
            raise InputError(f"question {response.question_id!r} has no gold answer, so its set cannot be scored")
        grouped[response.question_id].append(response)
    expected = max(1, *map(len, grouped.values()))
    for name, group in grouped.items():
        group.sort(key=lambda r: r.sample_index)
        indices = [r.sample_index for r in group]
        if len(indices) != expected or len(set(indices)) != expected:
            raise InputError(
                f"question {name!r}: found samples {indices}, expected {expected} different ones as for the other "
                "questions; evaluate the set again"
            )
    return grouped


def outcomes(questions: Sequence[Question], responses: Iterable[Response]) -> dict[str, float]:
    """Returns the share of right samples per question id (0.0 or 1.0 for one sample).

    Raises:
      InputError: like `group_by_question`.
    """
    return {name: _mean(r.correct for r in group) for name, group in group_by_question(questions, responses).items()}


def chance_level(questions: Sequence[Question]) -> float | None:
    """Returns the expected accuracy of guessing among the choices; None if a question has no choices."""
    if not all(q.choices for q in questions):
        return None
    return _mean(1 / len(q.choices) for q in questions)


def accuracy_with_interval(
    outcomes: Mapping[str, float], clusters: Mapping[str, str], confidence: float
) -> dict[str, Any]:
    """Returns n, accuracy and interval ([low, high]) of the outcomes of one run; see `outcome_tables.outcome_table`."""
    estimate = intervals.accuracy_interval(outcome_table([outcomes], clusters), confidence)
    return {"n": len(outcomes), "accuracy": estimate.value, "interval": [estimate.low, estimate.high]}


def _mean(values: Iterable[Any]) -> float:
    numbers = [float(v) for v in values]
    return sum(numbers) / len(numbers)
