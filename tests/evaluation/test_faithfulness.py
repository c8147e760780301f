"""Answer change and leakage-adjusted simulatability, compared with their definitions on enumerated cases."""

import functools
import itertools

import numpy as np
import pytest

from scotd_jax.evaluation.faithfulness import answer_changes, describe_changes, simulatability
from scotd_jax.records import Question, Response

GOLD = "a"


@functools.cache  # annotations of records are checked at run time, which takes about a millisecond
def response(i: int, answer: str | None) -> Response:
    return Response(f"q{i}", 0, "", None, answer, answer == GOLD, "stop", 0.0, 1, "m", "")


def rows(answers: str | list[str | None]) -> list[Response]:
    return [response(i, answer) for i, answer in enumerate(answers)]


def questions(count: int, context=lambda i: None) -> list[Question]:
    return [Question(f"q{i}", "t", "test", "?", ("a", "b"), GOLD, context=context(i)) for i in range(count)]


def test_changes_count_answers_and_right_answers():
    own = rows(["a", "a", "b", "b", None])
    changed = {"empty": rows(["A", "b", "b", "a", "a"]), "oracle": rows("ab")}
    assert answer_changes(own, changed["empty"]) == {"q0": 0.0, "q1": 1.0, "q2": 0.0, "q3": 1.0, "q4": 1.0}
    found = describe_changes(questions(5), own, changed)
    assert (found["empty"]["n"], found["empty"]["changed"], found["empty"]["accuracy"]) == (5, 0.6, 0.4)
    assert found["empty"]["own_accuracy"] == 0.4
    oracle = found["oracle"]  # only some questions have a right rationale
    assert (oracle["n"], oracle["changed"], oracle["accuracy"], oracle["own_accuracy"]) == (2, 0.5, 0.5, 1.0)
    low, high = oracle["changed_interval"]
    assert low < 0.5 < high


def reference_las(answers, both, question, rationale):
    """The definition: mean gain over leaked and over other answers, with equal weights."""
    gains: dict[bool, list[int]] = {True: [], False: []}
    for y, from_both, from_question, from_rationale in zip(answers, both, question, rationale, strict=True):
        gains[from_rationale == y].append((from_both == y) - (from_question == y))
    return sum(sum(group) / len(group) for group in gains.values()) / 2


def test_las_equals_its_definition_on_all_cases():
    answers, members = "abab", questions(4)
    every = list(itertools.product("ab", repeat=4))
    for both, question, rationale in itertools.product(every, (tuple("aaaa"), tuple("abba")), every[1::4]):
        if rationale in (tuple("abab"), tuple("baba")):
            continue  # one of the groups is empty
        predictions = {"both": rows([*both]), "question": rows([*question]), "rationale": rows([*rationale])}
        found = simulatability(members, rows(answers), predictions)
        assert found["las"] == pytest.approx(reference_las(answers, both, question, rationale))
        assert found["interval"][0] <= found["las"] <= found["interval"][1]


def test_las_is_unknown_if_no_answer_or_every_answer_is_leaked():
    answers = rows("abab")
    for rationale, leaked in (("abab", 4), ("baba", 0)):
        predictions = {"both": answers, "question": rows("aaaa"), "rationale": rows(rationale)}
        found = simulatability(questions(4), answers, predictions)
        assert (found["las"], found["interval"], found["leaked"]) == (None, None, leaked)
        assert found["predicted_from_both"] == 1.0


@pytest.mark.parametrize("size", [1, 4])
def test_interval_of_las_covers_the_true_value(size):
    # Passages of `size` questions whose answers are all predicted or not: their number determines the width.
    rng, count, draws, covered = np.random.default_rng(0), 80, 80, 0
    members = questions(count, lambda i: f"passage {i // size}" if size > 1 else None)
    answers = rows("a" * count)

    def draw(rate: float) -> list[Response]:
        right = np.repeat(rng.random(count // size) < rate, size)
        return rows(["a" if value else "b" for value in right])

    for _ in range(draws):
        predictions = {"both": draw(0.8), "question": draw(0.6), "rationale": draw(0.5)}
        low, high = simulatability(members, answers, predictions)["interval"]
        covered += low <= 0.2 <= high
    assert covered / draws == pytest.approx(0.95, abs=0.06)
