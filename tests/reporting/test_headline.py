"""Headline and summary of the report: every statement follows from the data."""

import dataclasses
import re

import pytest

from scotd_jax.reporting import tables
from scotd_jax.reporting.data import ReportData, RunResult
from tests.helpers.report_arms import arm, findings_of, plain


@pytest.mark.parametrize(
    ("method", "baseline", "headline", "significant"),
    [
        (0.80, 0.50, "Training on 30 rationales per question beats label-only training: 80.0 % ", True),
        (0.40, 0.70, "Training on 30 rationales per question does worse than label-only", True),
        (0.60, 0.58, "No significant difference between training on 30 rationales per question", False),
    ],
)
def test_headline_states_the_outcome_of_the_test(method, baseline, headline, significant):
    arms = [arm("SCoTD", method, samples=30), arm("labels", baseline, samples=0)]
    findings = findings_of(ReportData("r", arms))
    assert plain(findings.headline).startswith(headline)
    assert f"{tables.points(method - baseline)} points (interval" in plain(findings.paragraphs[0])
    judgement = "which is significant" if significant else "which is not significant"
    assert judgement in findings.paragraphs[0]
    assert "There is one training run per arm" in findings.paragraphs[0]


def test_summary_mentions_the_curve_the_teacher_and_accuracies_below_chance():
    arms = [
        arm("label-only", 0.3, samples=0),
        arm("N = 5", 0.4, samples=5, curve="c"),
        arm("N = 30", 0.8, samples=30, curve="c"),
        arm("N = 1", 0.5, samples=1, curve="c"),
        arm("greedy", 0.6, samples=1),
        arm("big one", 0.9, role="teacher"),
    ]
    findings = plain(findings_of(ReportData("r", arms)).paragraphs[0])
    rises = (
        "Accuracy rises with more samples (+15.0 points per step, p < 0.001): 50.0, 40.0 and 80.0 % with 1, 5 and 30"
    )
    assert rises in findings
    assert "Its lead on test is +20.0 points over “greedy”." in findings
    assert "“label-only” is below chance on test (30.0 %)" in findings
    assert "“big one” answers 90.0 % of the test questions correctly" in findings


def test_sentences_list_four_arms_and_count_the_others():
    others = [arm(f"way {i}", 0.4 + i / 50) for i in range(7)]
    arms = [arm("label-only", 0.3, samples=0), arm("N = 30", 0.8, samples=30), *others]
    findings = plain(findings_of(ReportData("r", arms)).paragraphs[0])
    assert re.search(
        r"Its lead on test is (\S+ points over “way \d”( \(not significant\))?(, | and )?){4}; 3 more are in the",
        findings,
    )


def test_format_failures_are_mentioned_and_not_attributed_to_a_cue():
    def with_failures(run: RunResult, share: float) -> RunResult:
        return dataclasses.replace(run, results={"w.test": {**run.results["w.test"], "format_failure_rate": share}})

    method, labels = arm("SCoTD", 0.8, samples=30), arm("labels", 0.3, samples=0)
    broken = plain(
        findings_of(ReportData("r", [with_failures(method, 0.02), with_failures(labels, 0.45)])).paragraphs[0]
    )
    assert "Answers on test that could not be parsed count as wrong: “labels” 45.0 %." in broken
    assert "surface cue" not in broken
    misled = plain(findings_of(ReportData("r", [method, with_failures(labels, 0.04)])).paragraphs[0])
    assert "could not be parsed" not in misled
    assert "surface cue" in misled
