"""Rows of the report's tables of votes, of calibration (votes and likelihoods of choices), and of cost per point."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scotd_jax.reporting import tables
from scotd_jax.reporting.comparisons import VoteRow
from scotd_jax.reporting.data import EvalSet, ReportData
from scotd_jax.reporting.tables import ArmRow, mean

_LISTED_KS = (1, 3, 5, 10, 20, 30, 50, 100)  # numbers of samples in the table of votes, besides the largest one
_CONFIDENCES = {"votes": "share of the votes", "choices": "likelihood among the choices"}


def vote_rows(
    rows: Sequence[ArmRow], sets: Sequence[EvalSet], data: ReportData, tests: Sequence[VoteRow]
) -> list[dict[str, Any]]:
    """Returns one row per arm and set with votes; numbers are means over runs."""
    by_key = {(test.model, test.arm, test.read, test.set_label): test for test in tests}
    lines = []
    for row in rows:
        for evalset in sets:
            votes = [run.votes[evalset.label] for run in row.runs if evalset.label in run.votes]
            voted = [run.vote_outcomes[evalset.label] for run in row.runs if evalset.label in run.votes]
            if votes:
                greedy = row.cells.get(evalset.label)
                lines.append(
                    {
                        "row": row,
                        "set": evalset.name,
                        "greedy": dataclasses.replace(greedy, best=False) if greedy else None,
                        "vote": tables.outcome_cell(voted, data.clusters, data.confidence),
                        "test": by_key.get((row.model, row.name, row.read, evalset.label)),
                        "k": votes[0]["k"],
                        "expected": _at_listed_ks([v["expected"] for v in votes]),
                        # Results of earlier versions have no pass@k.
                        "passed": _at_listed_ks([v.get("pass_at_k", {}) for v in votes]),
                        "entropy": mean(v["vote_entropy"] for v in votes),
                        "invalid": mean(v["invalid_rate"] for v in votes),
                    }
                )
    return lines


def _at_listed_ks(by_k: Sequence[dict[str, float]]) -> list[tuple[str, float]]:
    """(k, mean over runs) for the listed numbers of samples and the largest one that all runs have."""
    shared = [k for k in by_k[0] if all(k in values for values in by_k)]
    listed = [k for k in shared if int(k) in _LISTED_KS or k == shared[-1]]
    return [(k, mean(values[k] for values in by_k)) for k in listed]


def calibration_rows(rows: Sequence[ArmRow], sets: Sequence[EvalSet]) -> Iterator[dict[str, Any]]:
    """Yields one row per arm, set and kind of confidence; numbers are means over runs."""
    for row, evalset, source in itertools.product(rows, sets, _CONFIDENCES):
        if found := _calibrations(row, evalset, source):
            names = ("accuracy", "mean_confidence", "ece", "ece_equal_mass")
            means = {name: mean(entry[name] for entry in found) for name in names}
            yield {"row": row, "set": evalset.name, "source": _CONFIDENCES[source], **means}


def reliability_lines(
    rows: Sequence[ArmRow], sets: Sequence[EvalSet]
) -> Iterator[tuple[str, dict[str, list[dict[str, Any]]]]]:
    """Yields for every set and kind of confidence a title, and the bins of every arm, pooled over its runs."""
    several = len(tables.student_models(rows)) > 1
    for evalset, source in itertools.product(sets, _CONFIDENCES):
        lines = {}
        for row in rows:
            if found := _calibrations(row, evalset, source):
                parts = (row.name, row.model if several else "", row.reading if source == "votes" else "")
                lines[", ".join(filter(None, parts))] = _pool_bins(found)
        if lines:
            yield f"{evalset.name}, {_CONFIDENCES[source]}", lines


def _calibrations(row: ArmRow, evalset: EvalSet, source: str) -> list[Mapping[str, Any]]:
    """The calibrations of an arm's runs. Answers read from one text have none, nor have those of earlier versions."""
    scores = [(run.votes if source == "votes" else run.results).get(evalset.label, {}) for run in row.runs]
    return [score["calibration"] for score in scores if score.get("calibration")]


def _pool_bins(calibrations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The bins of equal width over all answers of some runs."""
    by_edge: dict[float, list[Mapping[str, Any]]] = {}
    for entry in sorted((entry for found in calibrations for entry in found["bins"]), key=lambda entry: entry["low"]):
        by_edge.setdefault(entry["low"], []).append(entry)
    sizes = {low: sum(entry["n"] for entry in entries) for low, entries in by_edge.items()}
    return [
        {"n": sizes[low]}
        | {name: sum(e["n"] * e[name] for e in entries) / sizes[low] for name in ("confidence", "accuracy")}
        for low, entries in by_edge.items()
    ]


def cost_rows(
    rows: Sequence[ArmRow], sets: Sequence[EvalSet], costs: Mapping[str, Mapping[str, float]]
) -> Iterator[dict[str, Any]]:
    """Yields the cost of every student, and the cost per percentage point that it gains over its baseline.

    The baseline is label-only training of the same model, or else the model before training; the cost of the gain is
    the difference of both costs. Accuracies are those of the first set. Students with an unknown cost are left out.
    """
    for row in (r for r in rows if r.role == "student" and r.cells):
        flops = _flops(row, costs)
        if flops is None:
            continue
        evalset = next(s for s in sets if s.label in row.cells)
        line: dict[str, Any] = {"row": row, "set": evalset.name, "training": flops[0], "sampling": flops[1]}
        line |= {"baseline": "", "gain": None, "per_point": None}
        baseline = _baseline(row, rows, evalset.label)
        baseline_flops = baseline and _flops(baseline, costs)
        if baseline and baseline_flops:
            gain = row.cells[evalset.label].estimate.value - baseline.cells[evalset.label].estimate.value
            line |= {"baseline": baseline.name, "gain": gain}
            if gain > 0:
                line["per_point"] = (sum(flops) - sum(baseline_flops)) / (100 * gain)
        yield line


def _baseline(row: ArmRow, rows: Sequence[ArmRow], label: str) -> ArmRow | None:
    """The arm over which the gain of another one on a set is computed: label-only training, or no training."""
    others = [r for r in rows if r.model == row.model and r is not row and label in r.cells]
    label_only = [r for r in others if r.role == "student" and r.samples == 0]
    return next(iter(label_only or [r for r in others if r.role == "untrained"]), None)


def _flops(row: ArmRow, costs: Mapping[str, Mapping[str, float]]) -> tuple[float, float] | None:
    """Mean FLOPs of training and of sampling over the runs of an arm, 0 without training; None if one is unknown."""
    if row.role == "untrained":
        return 0.0, 0.0
    found = [costs.get(run.student, {}) for run in row.runs]
    if not all("training_flops" in cost and "sampling_flops" in cost for cost in found):
        return None
    return mean(cost["training_flops"] for cost in found), mean(cost["sampling_flops"] for cost in found)
