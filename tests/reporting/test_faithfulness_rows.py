"""The report's tables of answers after changed rationales, and of simulatability."""

import dataclasses

import pytest

from scotd_jax.reporting import tables
from scotd_jax.reporting.data import ChangedAnswers, EvalSet, ReportData, RunResult
from scotd_jax.reporting.faithfulness_rows import faithfulness_content
from scotd_jax.reporting.html_page import render
from tests.helpers.html_page import Page
from tests.helpers.report_arms import arm, plain

SHARES = {"predicted_from_both": 0.9, "predicted_from_question": 0.6, "predicted_from_rationale": 0.7}


def probed(seed: int, changed: int, las: float | None) -> RunResult:
    """A run with 80 of 100 right answers, of which `changed` differ after no rationale, and none after others."""
    run = arm("SCoTD", 0.8, seed=seed, samples=30, read="choices")
    ids = list(run.outcomes["w.test"])
    differ = {id_: float(i < changed) for i, id_ in enumerate(ids)}
    empty = ChangedAnswers(differ, dict.fromkeys(ids, 0.5))
    same = {"empty": empty, "oracle": ChangedAnswers({ids[0]: 0.0}, {ids[0]: 1.0})}
    score = {**SHARES, "las": las, "interval": None if las is None else [las - 0.1, las + 0.1]}
    results = {"w.test": run.results["w.test"] | {"simulatability": score}}
    return dataclasses.replace(run, changes={"w.test": same}, results=results)


def test_page_has_changed_answers_and_simulatability():
    words = plain(Page(render(ReportData("r", [probed(0, 30, 0.12)]))).words)
    assert "SCoTDby likelihood of the choicestest80.0" in words
    assert "30.021\N{EN DASH}40 accuracy 50.0" in words
    assert "0.00\N{EN DASH}80 accuracy 100.0" in words
    assert "90.060.0 70.0+12.0+2.0 to +22.0" in words


def test_numbers_of_several_runs_are_means():
    data = ReportData("r", [probed(0, 30, 0.1), probed(1, 50, None), probed(2, 40, 0.3)])
    found = faithfulness_content(tables.arm_rows(data), [EvalSet("w.test")], data)
    assert found["names"] == ["empty", "oracle"]
    [line] = found["changed"]
    changed, right = line["changes"]["empty"]
    assert (changed.estimate.value, right.estimate.value) == (pytest.approx(0.4), pytest.approx(0.5))
    assert changed.run_accuracies == (0.3, 0.5, 0.4)
    [simulated] = found["simulated"]
    assert (simulated["las"], simulated["interval"], simulated["runs"]) == (pytest.approx(0.2), None, 2)


def test_runs_without_changed_rationales_have_no_section():
    assert "faithfulness" not in Page(render(ReportData("r", [arm("SCoTD", 0.8)]))).ids
