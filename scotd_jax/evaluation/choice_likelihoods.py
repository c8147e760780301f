"""Likelihoods of answer choices: their calibration, and the accuracy if the mean over tokens decides, not the sum.

Every choice that was scored after a response is stored as a candidate, a `Response` record: `logprob` is the sum over
`num_tokens` scored tokens, and `sample_index` combines the indices of the response and of the choice.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from scotd_jax.evaluation import scoring
from scotd_jax.evaluation.calibration import calibration
from scotd_jax.evaluation.question_groups import question_clusters
from scotd_jax.records import Question, Response


def candidate_index(question: Question, sample_index: int, choice: int) -> int:
    """Returns the sample index of the candidate with this choice after the response with this sample index."""
    return sample_index * len(question.choices) + choice


def group_candidates(
    questions: Iterable[Question], candidates: Iterable[Response]
) -> dict[tuple[str, int], list[Response]]:
    """Returns the candidates of every response, by its question id and sample index, in the order of the choices."""
    choices = {question.id: len(question.choices) for question in questions}
    grouped: dict[tuple[str, int], list[Response]] = defaultdict(list)
    for row in sorted(candidates, key=lambda row: row.sample_index):
        grouped[row.question_id, row.sample_index // choices[row.question_id]].append(row)
    return dict(grouped)


def score_likelihoods(
    questions: Sequence[Question], candidates: Iterable[Response], confidence: float = 0.95
) -> dict[str, Any]:
    """Scores the likelihoods of the choices of one set as plain JSON values.

    Args:
      questions: all questions of the set.
      candidates: the candidates of an equal number of responses to every question.
      confidence: confidence level of the intervals.

    Returns:
      A dict of
        per_token: n, accuracy, interval if the mean log-probability per scored token decides (normalized by length),
        calibration: `calibration.calibration` of the choice with the largest sum, whose confidence is its probability
          among the choices.
    """
    normalized: dict[str, list[float]] = {question.id: [] for question in questions}
    confidences, right = [], []
    for (id_, _), rows in group_candidates(questions, candidates).items():
        per_token = max(rows, key=lambda row: row.logprob / row.num_tokens)
        best = max(rows, key=lambda row: row.logprob)
        normalized[id_].append(float(per_token.correct is True))
        confidences.append(1 / sum(math.exp(row.logprob - best.logprob) for row in rows))
        right.append(float(best.correct is True))
    outcomes = {id_: sum(values) / len(values) for id_, values in normalized.items()}
    return {
        "per_token": scoring.accuracy_with_interval(outcomes, question_clusters(questions), confidence),
        "calibration": calibration(confidences, right, confidence),
    }
