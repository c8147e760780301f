"""Comparisons of arms: their pairs, and tests over questions and runs."""

import dataclasses

import pytest

from scotd_jax.errors import InputError
from scotd_jax.records import Question
from scotd_jax.reporting import comparisons, tables
from scotd_jax.reporting.data import ReportData
from scotd_jax.reporting.html_page import render
from tests.helpers.html_page import Page
from tests.helpers.report_arms import arm, compared, findings_of, plain


def test_arms_without_common_questions_are_not_tested():
    method, labels = arm("SCoTD", 0.9, samples=30), arm("labels", 0.5, samples=0)
    others = {"w.test": {f"x{id_}": value for id_, value in labels.outcomes["w.test"].items()}}
    data = ReportData("r", [method, dataclasses.replace(labels, outcomes=others)], comparisons=[("SCoTD", "labels")])
    findings = findings_of(data)
    assert "the difference was not tested" in findings.headline
    assert "significant" not in findings.paragraphs[0]
    assert "share no questions and seeds: SCoTD vs labels." in plain(Page(render(data)).words)


def test_arms_with_some_common_questions_are_compared_on_these():
    method, labels = arm("SCoTD", 0.9, n=60, samples=30), arm("labels", 0.5, samples=0)
    [test] = compared(ReportData("r", [method, labels]))
    assert test.questions == 60
    assert test.difference.value == pytest.approx(54 / 60 - 50 / 60)


def test_runs_with_high_variance_are_not_significant():
    accuracies = [0.9, 0.5, 0.7]
    arms = [arm("SCoTD", a, seed=s, samples=30) for s, a in enumerate(accuracies)]
    arms += [arm("labels", 0.5, seed=s, samples=0) for s in range(3)]
    (row,) = compared(ReportData("r", arms))
    assert row.p > 0.05  # both test and interval include the variance between runs
    assert row.difference.low < 0 < row.difference.high
    assert row.significant == ""


def test_comparisons_pair_equal_seeds_only():
    arms = [arm("m", 0.8, seed=s, samples=5) for s in (0, 1, 2)] + [arm("o", 0.5, seed=s) for s in (1, 2, 3)]
    (row,) = compared(ReportData("r", arms))
    assert row.seeds == 2


def test_two_runs_of_an_arm_with_equal_seed_are_refused():
    runs = [arm("x", 0.8), dataclasses.replace(arm("x", 0.5), student="another")]
    with pytest.raises(InputError, match="arm 'x': 'x-0' and 'another' both have seed 0 on w.test"):
        tables.arm_rows(ReportData("r", runs))
    elsewhere = dataclasses.replace(arm("x", 0.5, label="w.contrast"), student="another")
    assert len(tables.arm_rows(ReportData("r", [runs[0], elsewhere]))) == 1


def test_default_pairs_include_every_arm_and_model():
    arms = [
        arm("labels", 0.5, samples=0, model="small"),
        arm("two stages", 0.6, model="small"),
        arm("N = 30", 0.8, samples=30, model="small"),
        arm("before", 0.1, role="untrained", model="small"),
        arm("N = 30", 0.9, samples=30, model="large"),
        arm("teacher", 0.9, role="teacher"),
    ]
    tests = compared(ReportData("r", arms))
    assert [(t.arm, t.other) for t in tests if t.model == t.other_model == "small"] == [
        ("N = 30", "before"),
        ("N = 30", "labels"),
        ("N = 30", "two stages"),
        ("two stages", "labels"),
        ("labels", "before"),
    ]
    [between] = [t for t in tests if t.model != t.other_model]
    assert (between.arm, between.other, between.model, between.other_model) == ("N = 30", "N = 30", "small", "large")
    alone = compared(ReportData("r", [arm("x", 0.5), arm("y", 0.6), arm("z", 0.7)]))
    assert [(t.arm, t.other) for t in alone] == [("x", "y"), ("x", "z"), ("y", "z")]


def test_named_comparisons_replace_the_default_pairs_and_are_one_family():
    arms = [arm("x", 0.8, samples=0), arm("y", 0.7, samples=30), arm("z", 0.4, samples=1)]
    arms += [arm("big", 0.9, role="teacher", seed=7)]
    data = ReportData("r", arms, comparisons=[("x", "y"), ("x", "big")])
    tests = compared(data)
    assert [(t.arm, t.other) for t in tests] == [("x", "y"), ("x", "big")]
    alone = [compared(dataclasses.replace(data, comparisons=[pair]))[0].p for pair in data.comparisons]
    assert [t.p for t in tests] == pytest.approx([2 * min(alone)] * 2)  # Holm over both; the two have equal p
    assert plain(findings_of(data).headline).startswith("Label-only training beats training on 30 rationales")
    models = [arm("x", 0.8, model="small"), arm("x", 0.5, model="large")]
    [between] = compared(ReportData("r", models, comparisons=[("x", "x")]))
    assert (between.model, between.other_model) == ("small", "large")


def test_contrast_consistency_is_compared_between_arms():
    questions = [
        Question(f"q{i:03}", "t", "test", "?", ("a", "b"), "a", group=f"{i // 2}") for i in range(100)
    ]  # arms are right on the first questions
    data = ReportData(
        "r",
        [arm("m", 0.8, samples=30), arm("o", 0.5, samples=0)],
        questions={q.id: q for q in questions},
    )
    by_set = {test.set_label: test for test in compared(data)}
    assert list(by_set) == ["w.test", "contrast consistency"]
    assert by_set["contrast consistency"].questions == 50
    assert by_set["contrast consistency"].difference.value == pytest.approx(0.3)
    # Within a set, the two questions of a pair count as one.
    assert by_set["w.test"].difference.low < compared(dataclasses.replace(data, questions={}))[0].difference.low
    assert "contrast consistency" in plain(Page(render(data)).words)


def test_votes_are_compared_with_single_responses():
    single, voted = arm("m", 0.5, samples=30), arm("m", 0.7)
    votes = {"w.test": {"k": 3, "expected": {"3": 0.7}, "vote_entropy": 0.5, "invalid_rate": 0.0}}
    run = dataclasses.replace(single, votes=votes, vote_outcomes=voted.outcomes)
    data = ReportData("r", [run])
    [test] = comparisons.compare_votes(data, tables.arm_rows(data))
    assert test.difference.value == pytest.approx(0.2)
    assert test.significant == "better"
    assert comparisons.compare_votes(data, tables.arm_rows(ReportData("r", [single]))) == []
    words = plain(Page(render(data)).words)
    assert "+20.0" in words


def test_trend_with_runs_that_disagree_is_not_significant():
    accuracies = {1: (0.2, 0.6, 0.5), 5: (0.6, 0.5, 0.7)}
    arms = [
        arm(f"N = {n}", accuracy, seed=seed, samples=n, curve="c")
        for n, of_runs in accuracies.items()
        for seed, accuracy in enumerate(of_runs)
    ]
    data = ReportData("r", arms)
    [trend] = comparisons.find_trends(data, tables.arm_rows(data))
    assert trend.difference.value == pytest.approx(1 / 6)
    assert (trend.values, trend.seeds, trend.significant) == ((1, 5), 3, "")
    assert "shows no significant trend" in plain(findings_of(data).paragraphs[0])
