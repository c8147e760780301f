"""Tables of a report: rows averaged over seeds, paired comparisons and formatted numbers."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from scotd_jax.evaluation import statistics
from scotd_jax.evaluation.statistics import Estimate
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
    """

    estimate: Estimate
    n: int
    chance: float | None
    run_accuracies: tuple[float, ...]
    best: bool = False

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

    The other fields are those of `RunResult`.
    """

    name: str
    model: str
    role: str
    samples: int | None
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


@dataclasses.dataclass(frozen=True)
class ComparisonRow:
    """Method minus another arm on one set.

    Attributes:
      model: base model of both arms.
      method: name of the method's arm.
      other: name of the other arm.
      set_label: label of the question set.
      difference: difference in accuracy with its interval.
      p: p-value, Holm-adjusted over all comparisons of the report.
      questions: number of distinct questions.
      seeds: number of paired runs.
      significant: "better" or "worse" if the interval excludes zero and p is below 1 - confidence, else "".
      read: how the answers of both arms were read.
    """

    model: str
    method: str
    other: str
    set_label: str
    difference: Estimate
    p: float
    questions: int
    seeds: int
    significant: str
    read: str = "text"


def evaluated_sets(data: ReportData) -> list[EvalSet]:
    """Returns the configured sets in order, then any others that have results."""
    known = {s.label: s for s in data.sets}
    used = dict.fromkeys(label for run in data.runs for label in run.results)
    return [s for s in known.values() if s.label in used] + [EvalSet(label) for label in used if label not in known]


def arm_rows(data: ReportData) -> list[ArmRow]:
    """Returns one row per (model, arm name, reading): reference models, models before training, students.

    Rows of answers that were read from the text come first.
    """
    grouped: dict[tuple[str, str, str], list[RunResult]] = {}
    for run in data.runs:
        grouped.setdefault((run.model, run.name, run.read), []).append(run)
    arms = []
    for (model, name, read), runs in grouped.items():
        first = runs[0]
        labels = dict.fromkeys(label for run in runs for label in run.results)
        cells = {
            label: _cell([run.results[label] for run in runs if label in run.results], data.confidence)
            for label in labels
        }
        arms.append(ArmRow(name, model, first.role, first.samples, first.curve, first.about, tuple(runs), cells, read))
    for label in [s.label for s in evaluated_sets(data)]:
        for model, read in {(r.model, r.read) for r in arms}:
            rivals = [r for r in students_of(arms, model) if r.read == read and label in r.cells]
            top = max((r.cells[label].estimate.value for r in rivals), default=0.0)
            for row in rivals if len(rivals) > 1 else ():
                if row.cells[label].estimate.value == top:
                    row.cells[label] = dataclasses.replace(row.cells[label], best=True)
    return sorted(arms, key=lambda r: (list(READINGS).index(r.read), ROLES.index(r.role)))


def main_reading(all_rows: Sequence[ArmRow]) -> list[ArmRow]:
    """Returns the rows with the first `read`: answers parsed from the text, if there are any, else by choices."""
    return [r for r in all_rows if r.read == all_rows[0].read]


def students_of(all_rows: Iterable[ArmRow], model: str) -> list[ArmRow]:
    """Returns the students of one model."""
    return [r for r in all_rows if r.model == model and r.role == "student"]


def _cell(scores: Sequence[Mapping[str, Any]], confidence: float) -> AccuracyCell:
    accuracies = tuple(float(s["accuracy"]) for s in scores)
    n = min(int(s["n"]) for s in scores)
    chances = [float(s["chance"]) for s in scores if s.get("chance") is not None]
    chance = sum(chances) / len(chances) if len(chances) == len(scores) else None
    return AccuracyCell(statistics.accuracy_over_seeds(accuracies, n, confidence), n, chance, accuracies)


def select_method(all_rows: Sequence[ArmRow], model: str, name: str = "") -> ArmRow | None:
    """Returns the arm to compare with the others: `name`, or the student with most samples (at least two).

    All rows have the same `read`.
    """
    students = students_of(all_rows, model)
    if name:
        return next((r for r in students if r.name == name), None)
    sampled = [r for r in students if (r.samples or 0) > 1]
    return max(sampled, key=lambda r: r.samples or 0) if sampled else None


def student_models(all_rows: Sequence[ArmRow]) -> list[str]:
    """Returns the models that have students, in order."""
    return list(dict.fromkeys(r.model for r in all_rows if r.role == "student"))


def compare_arms(data: ReportData, all_rows: Sequence[ArmRow]) -> list[ComparisonRow]:
    """Compares each model's method with its other students, and with the model before training, on every set.

    Compares only rows with the same `read`; pairs questions by id and runs by seed. A single run before training, whose
    weights do not depend on a seed, is paired with every run of the method.
    """
    found = []
    for read in dict.fromkeys(r.read for r in all_rows):
        rows = [r for r in all_rows if r.read == read]
        for model in student_models(rows):
            method = select_method(rows, model, data.method)
            others = [r for r in rows if r.model == model and r.role in ("untrained", "student") and r is not method]
            for other in others if method else ():
                found += [(method, other, *test) for test in _tests(method, other, data)]
    adjusted = statistics.holm_correction([result.p_value for *_, result in found])
    return [
        ComparisonRow(
            method.model,
            method.name,
            other.name,
            label,
            result.difference,
            p,
            result.questions,
            result.seeds,
            _significant(result.difference, p, data.confidence),
            method.read,
        )
        for (method, other, label, result), p in zip(found, adjusted, strict=True)
    ]


def _tests(method: ArmRow | None, other: ArmRow, data: ReportData) -> Iterator[tuple[str, statistics.Comparison]]:
    """The comparison of two arms on every set that has paired runs."""
    for evalset in evaluated_sets(data):
        a, b = (_outcomes(row, evalset.label) for row in (method, other))
        if other.role == "untrained" and len(b) == 1:
            b = dict.fromkeys(a, *b.values())
        if seeds := sorted(a.keys() & b.keys()):
            pairs = [a[seed] for seed in seeds], [b[seed] for seed in seeds]
            yield evalset.label, statistics.compare_paired(*pairs, data.confidence)


def _outcomes(row: ArmRow | None, label: str) -> dict[int, Mapping[str, float]]:
    return {run.seed: run.outcomes[label] for run in row.runs if label in run.outcomes} if row else {}


def _significant(difference: Estimate, p: float, confidence: float) -> str:
    if p >= 1 - confidence or difference.low <= 0 <= difference.high:
        return ""
    return "better" if difference.low > 0 else "worse"


def mean_score(row: ArmRow, label: str, key: str) -> float | None:
    """Returns the mean over runs of the score `key` on a set; None if no run has it."""
    values = [float(run.results[label][key]) for run in row.runs if run.results.get(label, {}).get(key) is not None]
    return sum(values) / len(values) if values else None


def over_runs(scores: Sequence[Mapping[str, Any]], confidence: float) -> AccuracyCell | None:
    """Returns one cell from the scores of several runs, each with accuracy and n; None if there are none.

    The scores may be those of a tag, of votes, or of contrast consistency.
    """
    return _cell(scores, confidence) if scores else None


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
