"""Tables of the report: rows of arms, formatted numbers, counts of the ledger."""

import pytest

from scotd_jax.evaluation.intervals import Estimate
from scotd_jax.reporting import tables
from scotd_jax.reporting.data import ReportData
from scotd_jax.reporting.html_page import render
from scotd_jax.reporting.metric_rows import cost_rows
from tests.helpers.html_page import Page
from tests.helpers.report_arms import arm, compared, findings_of, plain


def test_rows_average_runs_and_mark_the_best_student():
    arms = [arm("a", 0.6, seed=0), arm("a", 0.8, seed=1), arm("b", 0.65), arm("t", 0.99, role="teacher")]
    rows = tables.arm_rows(ReportData("r", arms))
    cells = {row.name: row.cells["w.test"] for row in rows}
    assert cells["a"].estimate.value == pytest.approx(0.7)
    assert cells["a"].run_accuracies == (0.6, 0.8)
    assert (cells["a"].best, cells["b"].best, cells["t"].best) == (True, False, False)
    assert cells["b"].against_chance == "above"
    assert cells["a"].against_chance == ""  # two distant runs have a wide interval


def test_rows_before_distillation_come_first_and_are_compared():
    arms = [arm("labels", 0.5, seed=s, samples=0) for s in (0, 1)] + [
        arm("SCoTD", 0.8, seed=s, samples=30) for s in (0, 1)
    ]
    arms += [arm("untrained, zero-shot", 0.03, role="untrained"), arm("teacher, few-shot", 0.9, role="teacher")]
    data = ReportData("r", arms)
    rows = tables.arm_rows(data)
    assert [row.role for row in rows] == ["teacher", "untrained", "student", "student"]
    assert not rows[1].cells["w.test"].best
    before, labels, labels_before = compared(data)
    assert (before.other, before.seeds, labels.other) == ("untrained, zero-shot", 2, "labels")
    assert (labels_before.arm, labels_before.other) == ("labels", "untrained, zero-shot")
    assert before.difference.value == pytest.approx(0.77)
    findings = plain(findings_of(data).paragraphs[0])
    assert findings.startswith(
        "Before training, the model answers on test: “untrained, zero-shot” 3.0 % (+77.0 points, p"
    )
    assert "“teacher, few-shot” answers 90.0 % of the test questions correctly" in findings


def test_reference_models_alone_are_summarized():
    data = ReportData("r", [arm("teacher, few-shot", 0.9, role="teacher"), arm("untrained", 0.2, role="untrained")])
    findings = findings_of(data)
    assert plain(findings.headline) == "“teacher, few-shot” answers 90.0 % of the test questions."
    assert "No trained student was evaluated." in findings.paragraphs[0]
    assert "teacher, few-shot" in Page(render(data)).words


def test_readings_have_rows_and_comparisons_of_their_own():
    # Answers are read in two ways: from the text, and by the likelihood of the choices.
    text = [arm("SCoTD", 0.3, samples=30), arm("labels", 0.5, samples=0)]
    choices = [arm("SCoTD", 0.7, samples=30, read="choices"), arm("labels", 0.6, samples=0, read="choices")]
    data = ReportData("r", [*choices, *text])
    rows = tables.arm_rows(data)
    assert [(row.name, row.read) for row in rows] == [
        ("SCoTD", "text"), ("labels", "text"), ("SCoTD", "choices"), ("labels", "choices"),
    ]  # fmt: skip
    assert [row.cells["w.test"].best for row in rows] == [False, True, True, False]
    tests = compared(data)
    assert [(test.read, round(test.difference.value, 2)) for test in tests] == [("text", -0.2), ("choices", 0.1)]
    findings = findings_of(data)
    assert plain(findings.headline).startswith("Training on 30 rationales per question does worse than label-only")
    assert (
        "accuracy is on test: “SCoTD” 70.0 % (30.0 from the text) and “labels” 60.0 % (50.0 from the text)."
        in plain(findings.paragraphs[0])
    )
    words = plain(Page(render(data)).words)
    assert words.count("By likelihood of the choices") == 3  # the summary, the table and its term
    only = findings_of(ReportData("r", choices))
    assert plain(only.headline).startswith("Training on 30 rationales per question")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.75, "75.0"), (None, "\N{EN DASH}"), (0.0, "0.0"), (1.0, "100.0"), (0.0001, "<0.1"), (0.9999, ">99.9")],
)
def test_percent_rounds_to_0_and_100_only_if_exact(value, text):
    assert tables.percent(value) == text


def test_formatted_numbers():
    assert tables.span(Estimate(0.5, 0.418, 0.582)) == "41\N{EN DASH}59"
    assert tables.span(Estimate(0.5, 0.41, 0.59)) == "41\N{EN DASH}59"
    assert tables.span(Estimate(1.0, 0.9012, 1.0), 1) == "90.1\N{EN DASH}100.0"
    assert [tables.points(v) for v in (0.203, -0.05, 0.0001)] == ["+20.3", f"{tables.MINUS}5.0", "0.0"]
    assert [tables.p_text(p) for p in (0.0001, 0.0123, 0.5)] == ["< 0.001", "= 0.012", "= 0.50"]


def test_ledger_counts_keep_the_order_of_the_ledger():
    counts = tables.ledger_counts({"total": 3, "bins": {"kept": 1, "new": 2}})
    assert list(counts.items()) == [("kept", 1), ("new", 2)]


def test_cost_per_point_is_the_additional_cost_over_the_gain():
    runs = [
        arm("label-only", 0.5, samples=0, model="m"),
        arm("N = 30", 0.75, samples=30, model="m"),
        arm("worse", 0.25, samples=5, model="m"),
        arm("unknown", 0.9, samples=5, model="m"),
    ]
    costs = {
        "label-only-0": {"training_flops": 1e12, "sampling_flops": 0.0},
        "N = 30-0": {"training_flops": 6e12, "sampling_flops": 20e12},
        "worse-0": {"training_flops": 2e12, "sampling_flops": 3e12},
        "unknown-0": {"training_flops": 2e12},
    }
    data = ReportData("r", runs)
    lines = {line["row"].name: line for line in cost_rows(tables.arm_rows(data), tables.evaluated_sets(data), costs)}
    assert set(lines) == {"label-only", "N = 30", "worse"}
    assert lines["N = 30"]["per_point"] == pytest.approx(1e12)  # 25 TFLOPs more for 25 points
    assert (lines["N = 30"]["baseline"], lines["N = 30"]["gain"]) == ("label-only", 0.25)
    assert lines["worse"]["per_point"] is None
    assert lines["label-only"]["gain"] is None
