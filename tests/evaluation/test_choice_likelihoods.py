"""Scores of choices by the sum and by the mean of their log-probabilities, and their calibration."""

import math

import pytest

from scotd_jax.evaluation.choice_likelihoods import candidate_index, group_candidates, score_likelihoods
from scotd_jax.records import Question, Response

QUESTIONS = [Question(f"q{i}", "t", "test", "which?", ("a", "bb bb", "c")[: 3 - i], "bb bb") for i in range(2)]


def candidate(question: Question, sample: int, choice: int, logprob: float, tokens: int) -> Response:
    answer = question.choices[choice]
    index = candidate_index(question, sample, choice)
    return Response(question.id, index, answer, None, answer, answer == "bb bb", "stop", logprob, tokens, "m", "")


# The long right choice of q0 has the smaller sum and the larger mean; that of q1 has the larger sum.
SCORES = [
    candidate(QUESTIONS[0], 0, 0, -2.0, 1),
    candidate(QUESTIONS[0], 0, 1, -3.0, 2),
    candidate(QUESTIONS[0], 0, 2, -4.0, 1),
    candidate(QUESTIONS[1], 0, 0, -5.0, 1),
    candidate(QUESTIONS[1], 0, 1, -1.0, 2),
]


def test_sum_and_mean_of_log_probabilities_choose_differently():
    result = score_likelihoods(QUESTIONS, SCORES)
    assert (result["per_token"]["n"], result["per_token"]["accuracy"]) == (2, 1.0)
    assert result["calibration"]["accuracy"] == 0.5
    confidences = 1 / (1 + math.exp(-1) + math.exp(-2)), 1 / (1 + math.exp(-4))
    assert result["calibration"]["mean_confidence"] == pytest.approx(sum(confidences) / 2)


def test_several_responses_to_a_question_count_with_their_mean():
    more = [
        candidate(QUESTIONS[i], 1, choice, logprob, 1)
        for i, choice, logprob in ((0, 0, -1.0), (0, 1, -2.0), (0, 2, -3.0), (1, 0, -1.0), (1, 1, -2.0))
    ]
    grouped = group_candidates(QUESTIONS, reversed(SCORES + more))
    assert {key: [row.answer for row in rows] for key, rows in grouped.items()} == {
        (q.id, sample): list(q.choices) for q in QUESTIONS for sample in (0, 1)
    }
    result = score_likelihoods(QUESTIONS, SCORES + more)
    assert (result["per_token"]["accuracy"], result["calibration"]["n"]) == (0.5, 4)


def test_equal_likelihoods_have_the_confidence_of_guessing():
    flat = [candidate(QUESTIONS[0], 0, choice, -700.0, 1) for choice in range(3)]
    assert score_likelihoods(QUESTIONS[:1], flat)["calibration"]["mean_confidence"] == pytest.approx(1 / 3)
