"""Curves over rationales, training questions and parameters: their arms, names, trends and plots."""

import re

import pytest

from scotd_jax.reporting import comparisons, tables
from scotd_jax.reporting.curve_plots import curve_panel, reliability_panel
from scotd_jax.reporting.curves import AXES, common_name, curves
from scotd_jax.reporting.data import EvalSet, ReportData
from scotd_jax.reporting.html_page import render
from scotd_jax.reporting.metric_rows import reliability_lines
from tests.helpers.html_page import Page
from tests.helpers.report_arms import arm, plain

SAMPLES, LABELS, PARAMETERS = AXES
SIZES = {"OPT 125M": 125_239_296, "OPT 1.3B": 1_315_758_080}


def student(name: str, accuracy: float, n: int, labels: int = 350, model: str = "OPT 125M", **fields):
    curve = fields.pop("curve", "scotd" if n else "label")
    size = SIZES.get(model)
    return arm(name, accuracy, samples=n, labels=labels, parameters=size, model=model, curve=curve, **fields)


GRID = [
    student("SCoTD, N = 5", 0.5, 5),
    student("SCoTD, N = 30", 0.8, 30),
    student("SCoTD, N = 1", 0.3, 1),
    student("label only", 0.6, 0),
    student("SCoTD, N = 30, 10 % of labels", 0.4, 30, labels=35),
    student("label only, 10 % of labels", 0.5, 0, labels=35),
    student("SCoTD, N = 30", 0.9, 30, model="OPT 1.3B"),
    student("label only", 0.65, 0, model="OPT 1.3B"),
    student("one greedy chain", 0.6, 1, curve="greedy"),
    student("gold", 0.7, 0, curve="gold"),
]


@pytest.fixture(scope="module")
def rows():
    return tables.arm_rows(ReportData("r", GRID))


def test_curves_join_students_that_differ_in_one_quantity(rows):
    found = {
        axis.field: {
            name: [(row.name, row.model, axis.value(row)) for row in line] for name, line in curves(rows, axis).items()
        }
        for axis in AXES
    }
    one_model = [(f"SCoTD, N = {n}", "OPT 125M", n) for n in (1, 5, 30)]
    assert found["samples"] == {"SCoTD": one_model}
    assert found["labels"] == {
        "SCoTD, N = 30": [("SCoTD, N = 30, 10 % of labels", "OPT 125M", 35), ("SCoTD, N = 30", "OPT 125M", 350)],
        "label only": [("label only, 10 % of labels", "OPT 125M", 35), ("label only", "OPT 125M", 350)],
    }
    assert found["parameters"] == {
        "SCoTD, N = 30": [("SCoTD, N = 30", model, size) for model, size in SIZES.items()],
        "label only": [("label only", model, size) for model, size in SIZES.items()],
    }


def test_students_that_also_differ_in_another_setting_are_on_no_curve():
    # A digest covers all settings but these three; two arms at one value still differ, for example in their steps.
    arms = [student("a", 0.5, 1), student("b", 0.6, 5), student("b, longer", 0.7, 5)]
    assert curves(tables.arm_rows(ReportData("r", arms)), SAMPLES) == {}
    reference = [student("c", 0.5, 1), student("t", 0.6, 5, role="teacher")]
    assert curves(tables.arm_rows(ReportData("r", reference)), SAMPLES) == {}


def test_curves_of_equal_names_have_their_models():
    arms = [student(f"N = {n}", 0.5, n, model=model) for model in SIZES for n in (1, 5)]
    assert list(curves(tables.arm_rows(ReportData("r", arms)), SAMPLES)) == list(SIZES)
    names = [student(f"{curve}{n}", 0.5, n, curve=curve) for curve in "cde" for n in (1, 5)]
    assert list(curves(tables.arm_rows(ReportData("r", names)), SAMPLES)) == [
        "OPT 125M",
        "OPT 125M (2)",
        "OPT 125M (3)",
    ]


@pytest.mark.parametrize(
    ("names", "shared"),
    [
        (["SCoTD, N = 1", "SCoTD, N = 10"], "SCoTD"),
        (["SCoTD, N = 5", "SCoTD, N = 50"], "SCoTD"),
        (["N = 1", "N = 5"], ""),
        (["10 labels, plain", "20 labels, plain"], "labels, plain"),
        (["a", "b"], ""),
        (["IN N = 1", "IN N = 2"], "IN"),
    ],
)
def test_common_names(names, shared):
    assert common_name(names, "N") == shared


def test_trends_of_all_axes_are_one_family(rows):
    trends = comparisons.find_trends(ReportData("r", GRID), rows)
    assert [(t.axis.field, t.curve, t.values) for t in trends] == [
        ("samples", "SCoTD", (1, 5, 30)),
        ("labels", "SCoTD, N = 30", (35, 350)),
        ("labels", "label only", (35, 350)),
        ("parameters", "SCoTD, N = 30", tuple(SIZES.values())),
        ("parameters", "label only", tuple(SIZES.values())),
    ]
    words = plain(Page(render(ReportData("r", GRID))).words)
    for axis in AXES:
        assert f"Accuracy against the number of {axis.title}" in words
    assert words.count("all 5 trends of the page") == 3


def test_panels_have_bands_values_and_names_beside_the_plot(rows):
    lines = curves(rows, LABELS)
    svg = curve_panel(LABELS, lines, EvalSet("w.test"), {})
    assert svg.count("fill-opacity: 0.13") == len(lines)
    labels = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    assert {"35", "350", "SCoTD, N = 30", "label only", "chance", "training questions"} <= set(labels)
    assert "125M" in curve_panel(PARAMETERS, curves(rows, PARAMETERS), EvalSet("w.test"), {})
    assert "rationales per question (N)" in curve_panel(SAMPLES, curves(rows, SAMPLES), EvalSet("w.test"), {})


def test_eight_lines_differ_in_colour_and_marker():
    bins = [{"confidence": x, "accuracy": x, "n": 5} for x in (0.2, 0.8)]
    svg = reliability_panel({f"arm {i}": bins for i in range(8)}, "eight arms")
    assert len(set(re.findall(r"stroke: var\(--line-(\d)\)", svg))) == 8
    heights = [float(y) for y in re.findall(r'<text[^>]* y="([\d.]+)"[^>]*>arm \d</text>', svg)]
    assert len(heights) == 8
    assert min(abs(a - b) for i, a in enumerate(heights) for b in heights[:i]) > 7, "names overlap"


def test_reliability_pools_the_answers_of_all_runs():
    def run(seed: int, *bins):
        named = [{"low": low, "n": n, "confidence": p, "accuracy": y} for low, n, p, y in bins]
        return arm("m", 0.5, seed=seed, votes={"w.test": {"k": 3, "calibration": {"bins": named}}})

    runs = [run(0, (0.5, 30, 0.6, 0.5)), run(1, (0.4, 5, 0.5, 1.0), (0.5, 10, 0.56, 0.9))]
    rows = tables.arm_rows(ReportData("r", runs))
    [(title, lines)] = reliability_lines(rows, [EvalSet("w.test")])
    assert title == "test, share of the votes"
    assert lines["m"] == [
        {"n": 5, "confidence": 0.5, "accuracy": 1.0},
        {"n": 40, "confidence": pytest.approx(0.59), "accuracy": pytest.approx(0.6)},
    ]
