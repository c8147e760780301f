"""Scoring, voting, contrast groups and clusters, compared with brute force and cases computed by hand."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scotd_jax.errors import InputError
from scotd_jax.evaluation import choice_likelihoods, contrast, intervals, question_groups, scoring, voting
from scotd_jax.records import Question, Response
from scotd_jax.tasks.prompt_formats import is_correct


def question(name, **fields):
    return Question(id=name, task="t", split="test", text=f"what is {name}?", choices=("a", "b"), answer="a", **fields)


def response(name, answer, sample_index=0, **fields):
    base = Response(name, sample_index, f"so {answer}", "so", answer, answer == "a", "stop", -1.0, 4, "m", "greedy")
    return dataclasses.replace(base, **fields)


# ---- scoring


def test_score_counts_unparsable_answers_as_wrong_and_reports_their_rate():
    questions = [question("q0", tags=("easy",)), question("q1", tags=("easy", "long")), question("q2")]
    responses = [
        response("q2", None, finish_reason="length", num_tokens=10),
        response("q0", "a"),
        response("q1", "b"),
    ]
    result = scoring.score(questions, responses)
    assert (result["n"], result["samples"], result["chance"]) == (3, 1, 0.5)
    assert result["accuracy"] == pytest.approx(1 / 3)
    assert result["interval"] == list(intervals.wilson_interval(1, 3)[1:])
    assert result["format_failure_rate"] == result["truncation_rate"] == pytest.approx(1 / 3)
    assert result["mean_tokens"] == 6
    assert {tag: (v["n"], v["accuracy"]) for tag, v in result["by_tag"].items()} == {"easy": (2, 0.5), "long": (1, 0.0)}
    assert scoring.outcomes(questions, responses) == {"q0": 1.0, "q1": 0.0, "q2": 0.0}


def test_questions_without_choices_have_no_chance_level():
    assert scoring.chance_level([question("q0"), dataclasses.replace(question("q1"), choices=())]) is None
    assert scoring.chance_level(
        [question("q0"), dataclasses.replace(question("q1"), choices=("a", "b", "c", "d"))]
    ) == pytest.approx(0.375)


@pytest.mark.parametrize(
    ("responses", "message"),
    [
        ([response("q0", "a")], "'q1'.*found samples \\[\\]"),
        ([response("q0", "a"), response("q0", "a"), response("q1", "a")], "'q0'.*found samples \\[0, 0\\]"),
        ([response("q0", "a"), response("q1", "a"), response("q1", "a", 1)], "'q0'.*expected 2 different"),
        ([response("q0", "a"), response("q1", "a"), response("q9", "a")], "'q9': no such question"),
        ([response("q0", "a", correct=None), response("q1", "a")], "'q0' has no gold answer"),
    ],
)
def test_incomplete_evaluations_are_refused(responses, message):
    with pytest.raises(InputError, match=message):
        scoring.score([question("q0"), question("q1")], responses)


def test_empty_sets_and_duplicate_ids_are_refused():
    with pytest.raises(InputError, match="no questions"):
        scoring.score([], [])
    with pytest.raises(InputError, match="unique"):
        scoring.score([question("q0"), question("q0")], [response("q0", "a")])


def test_interval_of_a_set_counts_questions_of_one_passage_as_dependent():
    questions = [question(f"q{i}", context=f"passage {i // 4}") for i in range(40)]
    same = [response(q.id, "a" if i // 4 < 6 else "b") for i, q in enumerate(questions)]  # all or none of a passage
    result = scoring.score(questions, same)
    assert (result["n"], result["accuracy"]) == (40, 0.6)
    ten = intervals.wilson_interval(6, 10)  # as if there were one question per passage
    assert result["interval"] == pytest.approx(ten[1:], abs=0.05)
    free = scoring.score([dataclasses.replace(q, context=None) for q in questions], same)
    assert free["interval"] == list(intervals.wilson_interval(24, 40)[1:])


def intervals_in(result) -> list[list[float]]:
    """All intervals in a result, in order."""
    found = []
    for key, value in result.items() if isinstance(result, dict) else enumerate(result):
        if key == "interval":
            found.append(value)
        elif isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], (dict, list))):
            found += value.values() if str(key).endswith("_intervals") else intervals_in(value)
    return found


def half_right(questions, _, confidence):
    return contrast.contrast_consistency(questions, {q.id: 0.5 for q in questions}, confidence)


@pytest.mark.parametrize(
    ("compute", "count"),
    [
        (scoring.score, 1 + 1),  # the set and its tag
        (voting.self_consistency, 1 + 2 * 2 + 2 * 2),  # maj@k and pass@k, and two bins of each kind
        (half_right, 1 + 1),  # the groups and their split
        (choice_likelihoods.score_likelihoods, 1 + 2),  # per token, and one bin of each kind
    ],
)
def test_confidence_level_applies_to_every_interval(compute, count):
    answers = {"q0": "aa", "q1": "ab", "q2": "bb", "q3": "ab"}
    questions = [question(id_, group=f"g{i // 2}", tags=("t",)) for i, id_ in enumerate(answers)]
    rows = [response(id_, answer, k) for id_, both in answers.items() for k, answer in enumerate(both)]
    narrow, wide = (intervals_in(compute(questions, rows, level)) for level in (0.5, 0.99))
    assert len(narrow) == len(wide) == count
    for (low, high), (lower, higher) in zip(narrow, wide, strict=True):
        assert lower <= low <= high <= higher
        assert higher - lower > 1.5 * (high - low)


# ---- voting


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        (["b", "a", "a"], "a"),
        (["b", "a", "a", "b"], "b"),  # tie: the first-sampled answer wins
        ([None, None, None, "a"], "a"),  # unparsable answers do not vote
        ([None, None], None),
        ([], None),
    ],
)
def test_majority_vote(answers, winner):
    assert voting.majority_vote(answers) == winner


def test_spellings_of_an_answer_vote_together():
    # Scoring ignores case and spacing, so London, London, paris, Paris and PARIS are three votes for Paris.
    answers = ["London", "London", "paris", "Paris ", "PARIS"]
    open_question = dataclasses.replace(question("q0"), choices=(), answer="Paris")
    responses = [response("q0", a, i, correct=is_correct(a, open_question)) for i, a in enumerate(answers)]
    result = voting.self_consistency([open_question], responses)
    assert (result["accuracy"], result["expected"]["5"]) == (1.0, 1.0)
    assert result["expected"]["1"] == pytest.approx(3 / 5)
    assert voting.majority_vote(answers) == "paris"  # the first spelling
    assert voting.vote_entropy(answers) == pytest.approx(voting.vote_entropy(["a", "a", "b", "b", "b"]))


def test_vote_entropy():
    assert voting.vote_entropy(["a", "b", "a", "b"]) == pytest.approx(1.0)
    assert voting.vote_entropy(["a", "a", None]) == 0.0
    assert voting.vote_entropy([None]) == 0.0


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=6), st.data())
def test_expected_majority_accuracy_is_the_mean_over_all_ordered_draws(answers, data):
    k = data.draw(st.integers(1, len(answers)))
    draws = [voting.majority_vote(d) == "a" for d in itertools.permutations(answers, k)]
    votes = collections.Counter(a for a in answers if a not in (None, "a"))
    ours = voting.expected_majority_accuracies(answers.count("a"), list(votes.values()), len(answers))
    assert ours.shape == (len(answers),)
    assert ours[k - 1] == pytest.approx(np.mean(draws))


def test_expected_majority_accuracies_of_many_samples_match_random_draws():
    ours = voting.expected_majority_accuracies(40, [20, 35], 100)
    rng = np.random.default_rng(0)
    for k in (2, 17, 60):
        votes = rng.multivariate_hypergeometric([40, 20, 35, 5], k, size=20_000)[:, :3]  # five have no parsable answer
        winners = votes == np.maximum(votes.max(axis=1, keepdims=True), 1)
        drawn = winners[:, 0] / np.maximum(winners.sum(axis=1), 1)
        assert ours[k - 1] == pytest.approx(drawn.mean(), abs=0.015)
    assert ours[0] == pytest.approx(0.4)
    assert ours[99] == pytest.approx(1.0)


def test_expected_majority_accuracies_refuse_impossible_counts():
    with pytest.raises(ValueError, match="2 samples cannot have 2 right"):
        voting.expected_majority_accuracies(2, [1], 2)


def test_self_consistency_of_a_set():
    questions = [question("q0"), question("q1"), question("q2")]
    samples = {"q0": ["a", "b", "a"], "q1": ["b", None, "a"], "q2": [None, None, None]}
    responses = [response(q, a, i) for q, answers in samples.items() for i, a in enumerate(answers)]
    result = voting.self_consistency(questions, reversed(responses))
    assert (result["n"], result["k"]) == (3, 3)
    assert result["accuracy"] == pytest.approx(1 / 3)  # q1 is a tie; b was sampled first
    # Two of three samples of q0 are right and win a vote over two of them in 1/3 + 2/3 * 1/2 of the draws.
    assert result["expected"] == pytest.approx(
        {"1": (2 / 3 + 1 / 3) / 3, "2": (2 / 3 + 1 / 2) / 3, "3": (1 + 1 / 2) / 3}
    )
    assert result["pass_at_k"] == pytest.approx({"1": (2 / 3 + 1 / 3) / 3, "2": (1 + 2 / 3) / 3, "3": 2 / 3})
    for name in ("expected", "pass_at_k"):
        intervals = result[f"{name}_intervals"]
        assert intervals.keys() == result[name].keys()
        assert all(low < result[name][k] < high for k, (low, high) in intervals.items())
    assert result["calibration"]["mean_confidence"] == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)
    assert result["calibration"]["accuracy"] == result["accuracy"]
    assert result["rationales"]["n"] == 9
    entropies = [voting.vote_entropy(answers) for answers in samples.values()]
    assert sum(entropies) > 1
    assert result["vote_entropy"] == pytest.approx(sum(entropies) / 3)
    assert result["invalid_rate"] == pytest.approx(4 / 9)
    assert result["abstentions"] == pytest.approx(1 / 3)


# ---- question groups


def test_contrast_groups_of_two_tasks_may_have_equal_names():
    def pair(task):
        members = [question(f"{task}/test/1", group="1"), question(f"{task}/contrast/1", group="1")]
        return [dataclasses.replace(member, task=task) for member in members]

    questions = pair("t") + pair("u")
    assert [[q.id for q in members] for members in question_groups.contrast_groups(questions).values()] == [
        ["t/test/1", "t/contrast/1"],
        ["u/test/1", "u/contrast/1"],
    ]
    result = contrast.contrast_consistency(questions, {q.id: q.task == "t" for q in questions})
    assert result is not None
    assert (result["n"], result["accuracy"], result["chance"]) == (2, 0.5, 0.25)


def test_contrast_groups_with_the_id_of_an_original_contain_it():
    original, edit = question("t/test/1"), question("u/contrast/1", group="t/test/1")
    edit = dataclasses.replace(edit, task="u")
    assert question_groups.contrast_groups([original, edit]) == {"t/test/1": [original, edit]}


def test_clusters_connect_questions_through_groups_and_passages():
    questions = [
        question("free"),
        question("a", group="g"),
        question("b", context="a passage"),
        question("c", context="another passage"),
        question("d", group="g", context="a passage"),  # connects a and b
        question("e", group="c"),  # edits c
        dataclasses.replace(question("f", context="a passage"), task="u"),
        question("h", context=""),
        question("i", context=""),
    ]
    clusters = question_groups.question_clusters(questions)
    assert clusters == {"free": "free", "a": "a", "b": "a", "d": "a", "c": "c", "e": "c", "f": "f", "h": "h", "i": "i"}


# ---- contrast


def test_questions_that_should_be_in_a_pair_but_are_not_are_described():
    pair = [question("t/test/1", group="g"), question("t/contrast/1", group="g")]
    edit = dataclasses.replace(question("t/contrast/9"), split="contrast")
    assert contrast.describe_unpaired([*pair, question("free")]) == ""
    described = contrast.describe_unpaired([*pair, edit, question("free")])
    assert described == "1 questions are in no contrast pair, first 't/contrast/9': it names no original"
    described = contrast.describe_unpaired([*pair, question("t/test/2", group="h")])
    assert described.endswith("first 't/test/2': no other member of its group 'h' is in these sets")


def test_groups_with_a_member_that_was_not_answered_are_left_out():
    grouped = question_groups.contrast_groups([question("a", group="g"), question("b", group="g")])
    assert contrast.consistent_groups(grouped, {"a": True}) == {}
    assert list(contrast.consistent_groups(grouped, {"a": True, "b": 0.5}).values()) == [0.5]


def test_consistency_requires_every_member_to_be_right():
    names = ["q0", "q1", "q2", "q3"]
    questions = [question(n, group=f"g{n}") for n in names]
    questions += [dataclasses.replace(question(f"{n}c", group=f"g{n}"), split="contrast", answer="b") for n in names]
    questions += [question("alone", group="g9"), question("free")]
    right = dict.fromkeys([q.id for q in questions], True) | {"q1c": False, "q2": False, "q2c": False}
    result = contrast.contrast_consistency(questions, right)
    assert result is not None
    assert (result["n"], result["accuracy"], result["some"], result["none"]) == (4, 0.5, 0.25, 0.25)
    assert (result["chance"], result["alone"]) == (0.25, 1)
    assert {s: v["accuracy"] for s, v in result["by_split"].items()} == {"test": 0.75, "contrast": 0.5}
    with pytest.raises(InputError, match="'q3c'"):
        contrast.contrast_consistency(questions, {n: v for n, v in right.items() if n != "q3c"})
    passage = [dataclasses.replace(q, context="one passage for all") for q in questions]
    together = contrast.contrast_consistency(passage, right)
    assert together is not None
    assert together["interval"][0] < result["interval"][0], "groups that share a passage count as one"
    shares = contrast.contrast_consistency(questions, {**right, "q0": 0.5, "q0c": 0.5})  # shares of right samples
    assert shares is not None
    assert (shares["accuracy"], shares["some"], shares["none"]) == (0.3125, 0.375, 0.3125)
    assert contrast.contrast_consistency([question("free")], {"free": True}) is None
