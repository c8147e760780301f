"""Faithfulness of rationales: whether answers depend on them, and whether they help to predict the answers.

Answer change (Lanham et al. 2023, arXiv 2307.13702): the share of questions that get another answer after a changed
rationale. A model whose answers stay the same after half of its rationale, or after none, does not use it. The accuracy
after a changed rationale shows the same for right answers, and after a right rationale whether the model follows it.

Leakage-adjusted simulatability (LAS; Hase et al. 2020, arXiv 2010.04119): how much better another model, the simulator,
predicts the answers with the rationales than without them. Rationales that simply state the answer leak it: the
simulator predicts the answer from the rationale alone. The gain is therefore the mean of two means: over the answers
that are leaked, and over those that are not.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from scotd_jax.evaluation import scoring
from scotd_jax.evaluation.question_groups import question_clusters
from scotd_jax.records import Question, Response, fold_spelling


def describe_changes(
    questions: Sequence[Question],
    own: Sequence[Response],
    changed: Mapping[str, Sequence[Response]],
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Computes answer change and accuracy after changed rationales, as plain JSON values.

    Args:
      questions: the questions of one set.
      own: the answers after the model's own rationales, one per question.
      changed: change of the rationales -> the answers after it, to all questions or some.
      confidence: confidence level of the intervals.

    Returns:
      Change -> a dict of n, accuracy and interval, as in `scoring.score`, and
        changed, changed_interval: share of the answers that differ from the own ones,
        own_accuracy: accuracy of the own answers to the same questions.
    """
    clusters, found = question_clusters(questions), {}
    right = {row.question_id: float(row.correct is True) for row in own}
    for name, rows in changed.items():
        changes = scoring.accuracy_with_interval(answer_changes(own, rows), clusters, confidence)
        outcomes = {row.question_id: float(row.correct is True) for row in rows}
        found[name] = {
            **scoring.accuracy_with_interval(outcomes, clusters, confidence),
            "changed": changes["accuracy"],
            "changed_interval": changes["interval"],
            "own_accuracy": sum(right[id_] for id_ in outcomes) / len(outcomes),
        }
    return found


def answer_changes(own: Sequence[Response], changed: Sequence[Response]) -> dict[str, float]:
    """Returns 1.0 for every question whose answer differs in `changed`, else 0.0, by question id."""
    answers = _answers(own)
    return {id_: float(answer != answers[id_]) for id_, answer in _answers(changed).items()}


def simulatability(
    questions: Sequence[Question],
    answers: Sequence[Response],
    predictions: Mapping[str, Sequence[Response]],
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Computes leakage-adjusted simulatability as plain JSON values.

    Args:
      questions: the questions of one set.
      answers: the answers of the simulated model, one per question.
      predictions: those of the simulator from "both", question and rationale, from the "question" alone, and from the
        "rationale" alone.
      confidence: confidence level of the interval.

    Returns:
      A dict of
        n: number of questions,
        predicted_from_both, predicted_from_question, predicted_from_rationale: shares of predicted answers,
        leaked: number of answers that are predicted from the rationale alone,
        gain_leaked, gain_not_leaked: gain of predictions by the rationale in both groups, None in an empty one,
        las, interval: their mean and its interval (t interval, by clusters of questions); None if a group is empty.
    """
    target = _answers(answers)
    predicted = [_answers(predictions[name]) for name in ("both", "question", "rationale")]
    both, question, rationale = (
        np.array([by_id[id_] == answer for id_, answer in target.items()], np.float64) for by_id in predicted
    )
    gains, leaked = both - question, rationale == 1
    groups = [gains[leaked], gains[~leaked]]
    means = [float(group.mean()) if group.size else None for group in groups]
    result = {
        "n": len(target),
        "predicted_from_both": float(both.mean()),
        "predicted_from_question": float(question.mean()),
        "predicted_from_rationale": float(rationale.mean()),
        "leaked": int(leaked.sum()),
        "gain_leaked": means[0],
        "gain_not_leaked": means[1],
        "las": None,
        "interval": None,
    }
    if means[0] is not None and means[1] is not None:
        las = (means[0] + means[1]) / 2
        deviations = np.where(leaked, gains - means[0], gains - means[1]) / (2 * np.where(leaked, *map(len, groups)))
        half = _half_width(deviations, list(target), question_clusters(questions), confidence)
        result |= {"las": las, "interval": [las - half, las + half]}
    return result


def _half_width(deviations: np.ndarray, ids: Sequence[str], clusters: Mapping[str, str], confidence: float) -> float:
    """Half the width of a t interval of the sum of some contributions, from their deviations."""
    sums: dict[str, float] = {}
    for id_, deviation in zip(ids, deviations, strict=True):
        sums[clusters[id_]] = sums.get(clusters[id_], 0.0) + float(deviation)
    count = len(sums)
    if count < 2:
        return 1.0
    variance = count / (count - 1) * sum(value**2 for value in sums.values())
    return float(special.stdtrit(count - 1, 0.5 + confidence / 2)) * variance**0.5


def _answers(rows: Sequence[Response]) -> dict[str, str | None]:
    return {row.question_id: row.answer and fold_spelling(row.answer) for row in rows}
