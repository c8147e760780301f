"""Plots of the report: labels, thinned curves, and names as they are."""

import re

import numpy as np
import pytest

from scotd_jax.reporting import curve_plots, plots, tables
from scotd_jax.reporting.data import EvalSet, ReportData
from tests.helpers.report_arms import arm


def test_names_in_plots_are_literal():
    rows = tables.arm_rows(ReportData("r", [arm("$x$ & 木", 0.6)]))
    svg = plots.accuracy_panel(rows, EvalSet("w.test"))
    assert "$x$ &amp; 木</text>" in svg
    runs = {str(i): [(1, 2.0, 0.1), (2, 1.0 + i, 0.5)] for i in range(5)}
    assert set(re.findall(r"#[0-9a-f]{6}", plots.training_panel("five runs", runs))) <= {"#ffffff"}


def test_labels_are_spread_without_changing_order():
    heights = [50.0, 51.0, 20.0, 99.0, 98.0, 0.0]
    moved = curve_plots.spread(heights, 8.0)
    assert np.argsort(moved).tolist() == np.argsort(heights).tolist()
    assert min(np.diff(sorted(moved))) >= 8.0 - 1e-9
    assert min(moved) >= 0
    assert max(moved) <= 100
    assert moved[2] == 20.0  # has room
    assert moved[0] == pytest.approx(46.5)  # both labels move by the same distance
    assert curve_plots.spread([], 8.0) == []


def test_thinned_curves_keep_their_last_point():
    points = [(i, float(i)) for i in range(1001)]
    thinned = plots.thin(points)
    assert len(thinned) <= plots.MAX_POINTS + 1
    assert (thinned[0], thinned[-1]) == (points[0], points[-1])
    assert plots.thin(points[:1]) == points[:1]
    assert plots.thin([]) == []
