"""Right or wrong, and what else a set of responses tells: how often no answer could be read, how often it was cut.

Accuracy is over questions: a question with several samples counts with the mean of them. An answer that cannot be
read is wrong, never left out; how often that happened is reported beside the accuracy.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from scotd_jax.errors import InputError
from scotd_jax.evaluation import statistics
from scotd_jax.records import Question, Response


def group_by_question(questions: Sequence[Question], responses: Iterable[Response]) -> dict[str, list[Response]]:
    """The responses of every question, by sample index, in the order of `questions`.

    Raises InputError on a response to another question, a question without response, one named twice, one whose
    answer could not be compared for want of a gold answer, and on questions that got different numbers of samples.
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
    """Question id -> share of its samples that are right (0.0 or 1.0 for one sample). Raises as `group_by_question`."""
    return {name: _mean(r.correct for r in group) for name, group in group_by_question(questions, responses).items()}


def chance_level(questions: Sequence[Question]) -> float | None:
    """Expected accuracy of guessing among the choices; None where some question has no choices."""
    if not all(q.choices for q in questions):
        return None
    return _mean(1 / len(q.choices) for q in questions)


def score(questions: Sequence[Question], responses: Iterable[Response], confidence: float = 0.95) -> dict[str, Any]:
    """One set's results as plain JSON values; rates are fractions.

    n questions, samples per question, accuracy with its Wilson interval at `confidence`, chance level (None for open
    questions), format_failure_rate (no answer could be read), truncation_rate (ran into the token limit), mean_tokens
    (end token included), by_tag: tag -> n, accuracy, interval. Raises InputError as `group_by_question`.
    """
    grouped = group_by_question(questions, responses)
    right = {name: _mean(r.correct for r in group) for name, group in grouped.items()}
    everything = [r for group in grouped.values() for r in group]
    tags: dict[str, list[float]] = defaultdict(list)
    for question in questions:
        for tag in question.tags:
            tags[tag].append(right[question.id])
    return {
        **accuracy_with_interval(list(right.values()), confidence),
        "confidence": confidence,
        "samples": len(everything) // len(grouped),
        "chance": chance_level(questions),
        "format_failure_rate": _mean(r.answer is None for r in everything),
        "truncation_rate": _mean(r.finish_reason == "length" for r in everything),
        "mean_tokens": _mean(r.num_tokens for r in everything),
        "by_tag": {tag: accuracy_with_interval(values, confidence) for tag, values in sorted(tags.items())},
    }


def accuracy_with_interval(values: Sequence[float], confidence: float) -> dict[str, Any]:
    """n, accuracy and [low, high] of per-question outcomes between 0 and 1."""
    estimate = statistics.wilson_interval(float(sum(values)), len(values), confidence)
    return {"n": len(values), "accuracy": estimate.value, "interval": [estimate.low, estimate.high]}


def _mean(values: Iterable[Any]) -> float:
    numbers = [float(v) for v in values]
    return sum(numbers) / len(numbers)
