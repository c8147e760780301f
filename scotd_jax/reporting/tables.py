"""Tables of a report: rows averaged over seeds, and formatted numbers."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scotd_jax.errors import InputError
from scotd_jax.evaluation.intervals import Estimate, accuracy_interval
from scotd_jax.evaluation.outcome_tables import Outcomes, outcome_table
from scotd_jax.reporting.data import EvalSet, ReportData, RunResult

# Both in the order of the rows: descriptions of `RunResult.read`, and values of `RunResult.role`.
READINGS = {"text": "read from the text", "choices": "by likelihood of the choices"}
ROLES = ("teacher", "base", "untrained", "student")
MINUS = "\N{MINUS SIGN}"


@dataclasses.dataclass(frozen=True)
class AccuracyCell:
    """Accuracy of one arm on one set.

    Attributes:
      estimate: mean over runs with its interval.
      n: number of questions.
      chance: accuracy of guessing; None if unknown.
      run_accuracies: accuracy of every run.
      best: whether the mean is the highest of the model's students (without a significance test).
      collapsed: number of runs that have collapsed (`evaluation.answer_distribution`).
    """

    estimate: Estimate
    n: int
    chance: float | None
    run_accuracies: tuple[float, ...]
    best: bool = False
    collapsed: int = 0

    @property
    def against_chance(self) -> str:
        """Returns "above" or "below" if the whole interval is above or below chance, else ""."""
        if self.chance is None:
            return ""
        return "above" if self.estimate.low > self.chance else "below" if self.estimate.high < self.chance else ""


@dataclasses.dataclass(frozen=True)
class ArmRow:
    """One arm, a row of the tables.

    Attributes:
      runs: all runs of the arm, in the order of the data.
      cells: set label -> accuracy.

    The other fields are those of the first run (`RunResult`).
    """

    name: str
    model: str
    role: str
    samples: int | None
    labels: int | None
    parameters: int | None
    curve: str
    about: str
    runs: tuple[RunResult, ...]
    cells: dict[str, AccuracyCell]
    read: str = "text"

    @property
    def reading(self) -> str:
        """How the answers were read, if not from the text."""
        return "" if self.read == "text" else READINGS[self.read]

    @property
    def seeds(self) -> int:
        """Number of runs."""
        return len(self.runs)


def evaluated_sets(data: ReportData) -> list[EvalSet]:
    """Returns the configured sets in order, then any others that have results."""
    known = {s.label: s for s in data.sets}
    used = dict.fromkeys(label for run in data.runs for label in run.results)
    return [s for s in known.values() if s.label in used] + [EvalSet(label) for label in used if label not in known]


def arm_rows(data: ReportData) -> list[ArmRow]:
    """Returns one row per (model, arm name, reading): reference models, models before training, students.

    Rows of answers that were read from the text come first.

    Raises:
      InputError: if two runs of an arm have the same seed.
    """
    grouped: dict[tuple[str, str, str], list[RunResult]] = {}
    for run in data.runs:
        grouped.setdefault((run.model, run.name, run.read), []).append(run)
    arms = []
    for (_, name, _), runs in grouped.items():
        first = runs[0]
        _check_seeds(name, runs)
        labels = dict.fromkeys(label for run in runs for label in run.results)
        cells = {label: _set_cell(runs, label, data) for label in labels}
        copied = {f.name: getattr(first, f.name) for f in dataclasses.fields(ArmRow) if f.name not in ("runs", "cells")}
        arms.append(ArmRow(runs=tuple(runs), cells=cells, **copied))
    for label in [s.label for s in evaluated_sets(data)]:
        for model, read in {(r.model, r.read) for r in arms}:
            rivals = [r for r in students_of(arms, model) if r.read == read and label in r.cells]
            for row, cell in zip(rivals, mark_best([row.cells[label] for row in rivals]), strict=True):
                row.cells[label] = cell
    return sorted(arms, key=lambda r: (list(READINGS).index(r.read), ROLES.index(r.role)))


def mark_best(cells: Sequence[AccuracyCell]) -> list[AccuracyCell]:
    """Returns the cells with the highest mean marked as best. A single cell has no rival and is not marked."""
    top = max((cell.estimate.value for cell in cells), default=0.0)
    return [dataclasses.replace(cell, best=len(cells) > 1 and cell.estimate.value == top) for cell in cells]


def main_reading(all_rows: Sequence[ArmRow]) -> list[ArmRow]:
    """Returns the rows with the first `read`: answers parsed from the text, if there are any, else by choices."""
    return [r for r in all_rows if r.read == all_rows[0].read]


def students_of(all_rows: Iterable[ArmRow], model: str) -> list[ArmRow]:
    """Returns the students of one model."""
    return [r for r in all_rows if r.model == model and r.role == "student"]


def _check_seeds(name: str, runs: Sequence[RunResult]) -> None:
    """Raises InputError if two runs of an arm have the same seed on the same set, so that they are not its seeds."""
    first: dict[tuple[int, str], str] = {}
    for run in runs:
        for label in run.results:
            other = first.setdefault((run.seed, label), run.student)
            if other != run.student:
                raise InputError(
                    f"arm {name!r}: {other!r} and {run.student!r} both have seed {run.seed} on {label}, but runs of an "
                    "arm differ in their seeds; set `seed` or `arm` of one of them"
                )


def _set_cell(runs: Sequence[RunResult], label: str, data: ReportData) -> AccuracyCell:
    """The cell of a set, from the runs that have it."""
    runs = [run for run in runs if label in run.results]
    chances = [run.results[label].get("chance") for run in runs]
    known = [float(chance) for chance in chances if chance is not None]
    chance = sum(known) / len(known) if len(known) == len(runs) else None
    cell = outcome_cell([run.outcomes[label] for run in runs], data.clusters, data.confidence, chance)
    # Results of earlier versions have no distribution of answers.
    collapsed = sum(bool(run.results[label].get("answers", {}).get("collapsed")) for run in runs)
    return dataclasses.replace(cell, collapsed=collapsed)


def outcome_cell(
    runs: Sequence[Outcomes], clusters: Mapping[str, str], confidence: float, chance: float | None = None
) -> AccuracyCell:
    """Returns the cell of the outcomes of some runs.

    Args:
      runs: outcomes of every run: of a set, a part of it, votes, or contrast groups.
      clusters: cluster of every question or group.
      confidence: confidence level of the interval.
      chance: accuracy of guessing.
    """
    accuracies = tuple(sum(outcomes.values()) / len(outcomes) for outcomes in runs)
    estimate = accuracy_interval(outcome_table(runs, clusters), confidence)
    return AccuracyCell(estimate, min(map(len, runs)), chance, accuracies)


def select_method(all_rows: Sequence[ArmRow], model: str) -> ArmRow | None:
    """Returns the student of a model with most samples, at least two. All rows have the same `read`."""
    sampled = [r for r in students_of(all_rows, model) if (r.samples or 0) > 1]
    return max(sampled, key=lambda r: r.samples or 0) if sampled else None


def label_only(students: Iterable[ArmRow]) -> ArmRow | None:
    """Returns the first student that was trained without rationales."""
    return next((r for r in students if r.samples == 0), None)


def student_models(all_rows: Sequence[ArmRow]) -> list[str]:
    """Returns the models that have students, in order."""
    return list(dict.fromkeys(r.model for r in all_rows if r.role == "student"))


def mean_score(row: ArmRow, label: str, key: str) -> float | None:
    """Returns the mean over runs of the score `key` on a set; None if no run has it."""
    values = [float(run.results[label][key]) for run in row.runs if run.results.get(label, {}).get(key) is not None]
    return mean(values) if values else None


def mean(values: Iterable[float]) -> float:
    """Returns the mean of numbers, for example over runs."""
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers)


def ledger_counts(ledger: Mapping[str, Any]) -> dict[str, int]:
    """Returns bin -> number of responses, in the order of the ledger (`rationales.ledger.Ledger.to_json`)."""
    return {name: int(count) for name, count in ledger["bins"].items()}


def purposes(costs: Iterable[Mapping[str, float]]) -> list[str]:
    """Returns the purposes of training time: the suffixes of the "seconds_" keys that are not zero everywhere."""
    names: dict[str, float] = {}
    for cost in costs:
        for name, value in cost.items():
            if name.startswith("seconds_"):
                names[name] = names.get(name, 0.0) + value
    return [name.removeprefix("seconds_") for name, value in names.items() if value]


def percent(value: float | None, digits: int = 1) -> str:
    """Formats a share: 0.75 as "75.0", None as an en dash. Only exact 0 and 1 become 0 and 100."""
    if value is None:
        return "\N{EN DASH}"
    text = f"{100 * value:.{digits}f}"
    step = 10.0**-digits
    if float(text) == 0 < value:
        return f"<{step:g}"
    return f">{100 - step:g}" if float(text) == 100 and value < 1 else text


def span(estimate: Estimate, digits: int = 0) -> str:
    """Formats an interval in percent: "69-80" with an en dash, rounded outwards so that it covers the computed one."""
    scale = 10.0**digits
    low = max(0.0, math.floor(round(100 * estimate.low * scale, 6)) / scale)
    high = math.ceil(round(100 * estimate.high * scale, 6)) / scale
    return f"{low:.{digits}f}\N{EN DASH}{high:.{digits}f}"


def points(value: float, digits: int = 1) -> str:
    """Formats a signed difference in percentage points: "+20.3"."""
    text = f"{100 * value:+.{digits}f}"
    return "0.0"[: 2 + digits] if float(text) == 0 else text.replace("-", MINUS)


def p_text(p: float) -> str:
    """Formats a p-value with its relation: "< 0.001" or "= 0.03"."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"
