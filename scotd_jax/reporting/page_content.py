"""Variables of the HTML templates of the report, computed section by section."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from scotd_jax import __version__
from scotd_jax.evaluation.intervals import Estimate, wilson_interval
from scotd_jax.reporting import comparisons, plots, tables
from scotd_jax.reporting.answer_rows import answer_rows, majority
from scotd_jax.reporting.claims import claim_results
from scotd_jax.reporting.comparisons import ComparisonRow, TrendRow
from scotd_jax.reporting.curve_plots import curve_panel, reliability_panel
from scotd_jax.reporting.curves import AXES, curves
from scotd_jax.reporting.data import CONSISTENCY, EvalSet, ReportData
from scotd_jax.reporting.example_browser import browser_content
from scotd_jax.reporting.faithfulness_rows import faithfulness_content
from scotd_jax.reporting.headline import summarize_findings
from scotd_jax.reporting.method_table import consistency_cell, method_table
from scotd_jax.reporting.metric_rows import calibration_rows, cost_rows, reliability_lines, vote_rows
from scotd_jax.reporting.table_files import SYMBOLS, describe_table, table_files
from scotd_jax.reporting.tables import ArmRow, mean


def page_content(data: ReportData) -> dict[str, Any]:
    """Returns the variables of the template report.html."""
    all_rows, sets = tables.arm_rows(data), tables.evaluated_sets(data)
    rows = tables.main_reading(all_rows)
    models = tables.student_models(rows)
    methods = {(m.model, m.name) for model in models if (m := tables.select_method(rows, model))}
    several = len(models) > 1
    tests, votes = comparisons.compare_arms(data, all_rows), comparisons.compare_votes(data, all_rows)
    trends = comparisons.find_trends(data, rows)
    compared = {test.set_label for test in tests}
    set_names = {s.label: s.name for s in (*data.sets, *sets)}
    results = [method_table(part, sets, tests, data, methods) for part in (rows, all_rows[len(rows) :]) if part]
    context: dict[str, Any] = {
        "data": data,
        "version": __version__,
        "findings": summarize_findings(data, all_rows, tests, trends),
        "confidence": f"{100 * data.confidence:g}\N{NO-BREAK SPACE}%",
        "alpha": f"{1 - data.confidence:.3g}",
        "sets": sets,
        "abouts": [s for s in sets if s.about],
        "set_names": set_names,
        "results": results,
        "result_notes": [describe_table(table, data.confidence) for table in results],
        "result_files": table_files(results, data.confidence),
        "symbols": SYMBOLS,
        "several_models": several,
        "many_seeds": any(r.seeds > 1 for r in rows if r.role == "student"),
        "resolution": _resolution(all_rows, sets, data.confidence),
        "accuracy_panels": [
            (s, Markup(plots.accuracy_panel(rows, s, methods, name_models=several, majority=majority(rows, s))))
            for s in sets
            if any(s.label in r.cells for r in rows)
        ],
        "claims": claim_results(data, rows),
        "answers": answer_rows(all_rows, sets),
        "by_tag": [t for s in sets if (t := _tags(all_rows, s, data))],
        "run_lines": _run_lines(all_rows, sets),
        "comparisons": tests,
        "comparison_rows": _comparison_rows(tests),
        "compared_sets": [s for s in (*sets, CONSISTENCY) if s.label in compared],
        "untested": comparisons.untested_pairs(data, tests),
        "clustered": _has_clusters(data),
        "curve_sections": _curve_sections(rows, sets, trends),
        "trends": trends,
        "votes": vote_rows(all_rows, sets, data, votes),
        "calibration": list(calibration_rows(all_rows, sets)),
        "reliability_panels": [
            (title, Markup(reliability_panel(lines, f"Accuracy against confidence: {title}")))
            for title, lines in reliability_lines(all_rows, sets)
        ],
        "faithfulness": faithfulness_content(all_rows, sets, data),
        "consistency": _consistency(all_rows, data),
        "browser": browser_content(data.examples, set_names),
        "ledgers": [_ledger(name, ledger) for name, ledger in data.ledgers.items()],
        "training_panels": _training(data),
        "costs": data.costs,
        "cost_rows": list(cost_rows(rows, sets, data.costs)),
        "purposes": tables.purposes(data.costs.values()),
    }
    sections = [
        ("run", "Overview", data.facts),
        ("claims", "Claims", context["claims"]),
        ("accuracy", "Accuracy", sets),
        ("answers", "Answers", context["answers"]["arms"]),
        ("comparisons", "Comparisons", context["comparisons"]),
        *((part["axis"].field, f"By {part['axis'].title}", True) for part in context["curve_sections"]),
        ("votes", "Self-consistency", context["votes"]),
        ("calibration", "Calibration", context["calibration"]),
        ("contrast", "Contrast consistency", context["consistency"]),
        ("faithfulness", "Faithfulness", any(context["faithfulness"].values())),
        ("preferences", "Human preferences", data.preferences),
        ("examples", "Examples", data.examples),
        ("prompts", "Prompts", data.prompts),
        ("responses", "Responses", data.response_sets),
        ("corpora", "Corpora", data.ledgers),
        ("training", "Training", context["training_panels"] or data.costs),
        ("terms", "Terms", True),
        ("reproduction", "Commands", data.commands or data.config),
    ]
    return context | {"contents": [(anchor, name) for anchor, name, content in sections if content]}


def _has_clusters(data: ReportData) -> bool:
    """Whether questions of one set share a passage or a contrast group."""
    sets = (outcomes for run in data.runs for outcomes in run.outcomes.values())
    return any(len({data.clusters.get(id_, id_) for id_ in outcomes}) < len(outcomes) for outcomes in sets)


def _resolution(rows: Sequence[ArmRow], sets: Sequence[EvalSet], confidence: float) -> dict[str, Any] | None:
    """Returns the size of the smallest set, and the half-width in points of its interval at an accuracy of 50 %."""
    sizes = [r.cells[s.label].n for r in rows for s in sets if s.label in r.cells]
    if not sizes:
        return None
    middle = wilson_interval(min(sizes) / 2, min(sizes), confidence)
    return {"n": min(sizes), "half": f"{50 * (middle.high - middle.low):.0f}"}


def _tags(rows: Sequence[ArmRow], evalset: EvalSet, data: ReportData) -> tuple[EvalSet, list[Any], list[Any]] | None:
    """Returns a set, its tags with their sizes, and the cells of every arm by tag; None for fewer than two tags."""
    tagged: dict[str, set[str]] = {}
    for id_ in dict.fromkeys(id_ for row in rows for run in row.runs for id_ in run.outcomes.get(evalset.label, {})):
        for tag in data.questions[id_].tags if id_ in data.questions else ():
            tagged.setdefault(tag, set()).add(id_)
    if len(tagged) < 2:
        return None
    lines = []
    for row in rows:
        cells = []
        for ids in tagged.values():
            runs = [
                {id_: value for id_, value in run.outcomes.get(evalset.label, {}).items() if id_ in ids}
                for run in row.runs
            ]
            runs = [outcomes for outcomes in runs if outcomes]
            cells.append(tables.outcome_cell(runs, data.clusters, data.confidence) if runs else None)
        if any(cells):
            lines.append((row, cells))
    sizes = {tag: max(cell.n for _, cells in lines if (cell := cells[i])) for i, tag in enumerate(tagged)}
    return evalset, list(sizes.items()), lines


def _run_lines(rows: Sequence[ArmRow], sets: Sequence[EvalSet]) -> list[dict[str, Any]]:
    return [
        {
            "student": run.student,
            "reading": row.reading,
            "set": evalset.name,
            "seed": run.seed,
            "n": score["n"],
            "accuracy": score["accuracy"],
            "interval": Estimate(score["accuracy"], *score["interval"]),
            "format_failures": score.get("format_failure_rate"),
            "truncated": score.get("truncation_rate"),
            "tokens": score.get("mean_tokens"),
            "per_token": (score.get("per_token") or {}).get("accuracy"),
            "words": (score.get("rationales") or {}).get("mean_words"),
            "distinct": (score.get("rationales") or {}).get("distinct_2"),
        }
        for row in rows
        for run in row.runs
        for evalset in sets
        if (score := run.results.get(evalset.label))
    ]


def _comparison_rows(tests: Sequence[ComparisonRow]) -> list[dict[str, Any]]:
    """Returns one line per pair of arms and reading: names, models, and set label -> comparison."""
    lines: dict[tuple[str, ...], list[ComparisonRow]] = {}
    for test in tests:
        lines.setdefault(test.pair, []).append(test)
    return [
        {
            "arm": first.arm,
            "other": first.other,
            "models": f" {tables.MINUS} ".join(dict.fromkeys((first.model, first.other_model))),
            "between_models": first.model != first.other_model,
            "cells": {test.set_label: test for test in line},
            "reading": "" if first.read == "text" else tables.READINGS[first.read],
        }
        for line in lines.values()
        for first in line[:1]
    ]


def _curve_sections(
    rows: Sequence[ArmRow], sets: Sequence[EvalSet], trends: Sequence[TrendRow]
) -> list[dict[str, Any]]:
    """Returns one section per axis that has curves: its panels by set, and its trends."""
    sections = []
    for axis in AXES:
        lines, panels = curves(rows, axis), []
        for evalset in sets:
            here = {name: [r for r in line if evalset.label in r.cells] for name, line in lines.items()}
            if here := {name: line for name, line in here.items() if line}:
                references = _references(rows, here, evalset) if axis.field == "samples" else {}
                panels.append((evalset, Markup(curve_panel(axis, here, evalset, references))))
        tests = [trend for trend in trends if trend.axis == axis]
        if panels:
            sections.append({"axis": axis, "panels": panels, "trends": tests, "several": len(lines) > 1})
    return sections


def _references(
    rows: Sequence[ArmRow], lines: Mapping[str, Sequence[ArmRow]], evalset: EvalSet
) -> dict[str, dict[str, float]]:
    """Curve -> accuracy of students of its model with the same questions on no curve; of several, label-only alone."""
    on_curve = {(row.model, row.name) for line in lines.values() for row in line}
    references: dict[str, dict[str, float]] = {}
    drawn: set[str] = set()  # models of earlier curves, whose references are already there
    for name, line in lines.items():
        others = [r for r in tables.students_of(rows, line[0].model) if r.labels == line[0].labels]
        others = [r for r in others if (r.model, r.name) not in on_curve]
        # With several curves, the only references are label-only students, to limit the number of dashed lines.
        others = [r for r in others if evalset.label in r.cells and (len(lines) == 1 or r.samples == 0)]
        if line[0].model not in drawn:
            references[name] = {r.name: r.cells[evalset.label].estimate.value for r in others}
        drawn.add(line[0].model)
    return references


def _consistency(rows: Sequence[ArmRow], data: ReportData) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for row in rows:
        if cell := consistency_cell(row, data):
            scores = [run.consistency for run in row.runs if run.consistency is not None]
            lines.append({"row": row, "cell": cell} | {k: mean(s[k] for s in scores) for k in ("some", "none")})
    return lines


def _ledger(name: str, ledger: Mapping[str, Any]) -> dict[str, Any]:
    counts = tables.ledger_counts(ledger)
    bins = [{"name": k.replace("_", " "), "count": v, "colour": _colour(k)} for k, v in counts.items()]
    label = ", ".join(f"{b['name']} {b['count']}" for b in bins)
    return {
        "name": name,
        "bins": bins,
        "total": sum(counts.values()),
        "label": label,
        "questions": ledger.get("questions"),
    }


def _colour(bin_name: str) -> str:
    return {"wrong": "--bin-wrong"}.get(bin_name, f"--{bin_name}")


def _training(data: ReportData) -> list[tuple[str, Markup]]:
    """Returns one panel per arm, and one for each student that belongs to no arm."""
    arm_of = {run.student: (run.model, run.name) for run in data.runs}
    several = len({model for model, _ in arm_of.values() if model}) > 1
    grouped: dict[tuple[str, str], dict[str, Any]] = {}
    for student, curve in data.curves.items():
        if curve:
            grouped.setdefault(arm_of.get(student, ("", student)), {})[student] = curve
    names = {key: f"{key[1]} ({key[0]})" if several and key[0] else key[1] for key in grouped}
    return [(names[key], Markup(plots.training_panel(names[key], runs))) for key, runs in grouped.items()]
