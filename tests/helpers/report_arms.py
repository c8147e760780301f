"""Arms with given accuracies, and what the report states about them."""

import re

from scotd_jax.reporting import comparisons, tables
from scotd_jax.reporting.data import ReportData, RunResult
from scotd_jax.reporting.headline import Findings, summarize_findings


def plain(text: str) -> str:
    """Returns the text with single ordinary spaces."""
    return re.sub(r"\s+", " ", text.replace("\N{NO-BREAK SPACE}", " "))


def findings_of(data: ReportData) -> Findings:
    """Returns the headline and the summary of a report."""
    rows = tables.arm_rows(data)
    trends = comparisons.find_trends(data, tables.main_reading(rows)) if rows else []
    return summarize_findings(data, rows, comparisons.compare_arms(data, rows), trends)


def compared(data: ReportData) -> list[comparisons.ComparisonRow]:
    """Returns the rows of the table of comparisons."""
    return comparisons.compare_arms(data, tables.arm_rows(data))


def arm(name, accuracy, *, seed=0, n=100, label="w.test", **fields) -> RunResult:
    """Returns a run on n questions that is right on the first `accuracy * n` of them and wrong on the others."""
    right = round(accuracy * n)
    outcomes = {label: {f"q{i:03}": float(i < right) for i in range(n)}}
    score = {"n": n, "accuracy": right / n, "interval": [0.0, 1.0], "chance": 0.5}
    return RunResult(name, f"{name}-{seed}", seed, {label: score}, outcomes=outcomes, **fields)
