"""The method table of a report: arms by question sets, with marks of significance against a reference arm.

The page, LaTeX and Markdown are written from the same table (`table_files`).
"""

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from scotd_jax.reporting import tables
from scotd_jax.reporting.answer_rows import majority
from scotd_jax.reporting.comparisons import ComparisonRow
from scotd_jax.reporting.data import CONSISTENCY, EvalSet, ReportData
from scotd_jax.reporting.tables import AccuracyCell, ArmRow, percent, span

# Whether an arm is significantly better or worse than the reference.
Mark = Literal["", "better", "worse"]


@dataclasses.dataclass(frozen=True)
class MethodCell:
    """A cell.

    Attributes:
      value: formatted value.
      detail: smaller text beside it, such as its interval.
      best: whether it is the highest of its model's students.
      mark: result of the comparison with the reference arm.
      notes: further remarks, such as "collapsed".
    """

    value: str
    detail: str = ""
    best: bool = False
    mark: Mark = ""
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class MethodLine:
    """A line: an arm, a baseline without a model, or the name of a model above its arms (without cells)."""

    name: str
    kind: Literal["model", "method", "student", "reference", "baseline"]
    about: str = ""
    cells: tuple[MethodCell | None, ...] = ()
    runs: MethodCell | None = None


@dataclasses.dataclass(frozen=True)
class MethodTable:
    """A table of all arms with the same reading.

    Attributes:
      reading: how answers were read, if not from the text.
      columns: name of every column and what it counts, such as "500 questions".
      lines: the lines.
      references: the arms that marks compare with, in order.
    """

    reading: str
    columns: tuple[tuple[str, str], ...]
    lines: tuple[MethodLine, ...]
    references: tuple[str, ...]

    @property
    def marks(self) -> set[str]:
        """The marks that occur."""
        return {cell.mark for line in self.lines for cell in line.cells if cell and cell.mark}


def method_table(
    rows: Sequence[ArmRow],
    sets: Sequence[EvalSet],
    tests: Sequence[ComparisonRow],
    data: ReportData,
    methods: Collection[tuple[str, str]] = (),
) -> MethodTable:
    """Returns the table of some arms with the same reading.

    Args:
      rows: the arms.
      sets: the question sets, one column each; contrast consistency follows.
      tests: all comparisons of the report, from which the marks are taken.
      data: the report.
      methods: (model, arm) pairs to highlight.
    """
    tests = [test for test in tests if rows and test.read == rows[0].read and test.model == test.other_model]
    references = _references(tests)
    marks, consistency = _marks(tests, references), _consistency(rows, data)
    labels = [evalset.label for evalset in sets] + ([CONSISTENCY.label] if consistency else [])
    several = len({row.model for row in rows if row.role == "student"}) > 1
    lines = []
    for model, group in rows_by_model(rows):
        if several and model:
            lines.append(MethodLine(model, "model"))
        for row in group:
            found = row.cells | {CONSISTENCY.label: consistency.get((row.model, row.name))}
            cells = [_cell(found.get(label), marks.get((row.model, row.name, label), "")) for label in labels]
            method = (row.model, row.name) in methods
            kind = "method" if method else "student" if row.role == "student" else "reference"
            lines.append(MethodLine(row.name, kind, row.about, tuple(cells), _runs(row)))
    columns = [(s.name, f"{_sizes([r.cells[s.label] for r in rows if s.label in r.cells])} questions") for s in sets]
    if consistency:
        columns.append((CONSISTENCY.name, f"{_sizes(list(consistency.values()))} groups"))
    lines += _baselines(rows, sets, list(consistency.values()))
    named = tuple(dict.fromkeys(references.values()))
    return MethodTable(rows[0].reading if rows else "", tuple(columns), tuple(lines), named)


def consistency_cell(row: ArmRow, data: ReportData) -> AccuracyCell | None:
    """Returns the contrast consistency of an arm; None without contrast groups."""
    runs = [run for run in row.runs if run.consistency is not None]
    if not runs:
        return None
    chance = (runs[0].consistency or {}).get("chance")
    groups = [data.consistent_groups(run) for run in runs]
    return tables.outcome_cell(groups, data.group_clusters, data.confidence, chance)


def rows_by_model(rows: Iterable[ArmRow]) -> list[tuple[str, list[ArmRow]]]:
    """Groups the rows of students, before and after training, by model; all reference models form one group."""
    grouped: dict[str, list[ArmRow]] = {}
    for row in rows:
        of_student = row.role in ("untrained", "student")
        grouped.setdefault(row.model if of_student else "reference models", []).append(row)
    return list(grouped.items())


def _references(tests: Sequence[ComparisonRow]) -> dict[str, str]:
    """Model -> the arm that was tested against most others, and of those the one that is subtracted most often.

    In the default family this is label-only training.
    """
    others: dict[str, dict[str, set[str]]] = {}
    subtracted = Counter((test.model, test.other) for test in tests)
    for test in tests:
        partners = others.setdefault(test.model, {})
        partners.setdefault(test.arm, set()).add(test.other)
        partners.setdefault(test.other, set()).add(test.arm)
    return {
        model: max(partners, key=lambda arm, model=model: (len(others[model][arm]), subtracted[model, arm]))
        for model, partners in others.items()
    }


def _marks(tests: Sequence[ComparisonRow], references: Mapping[str, str]) -> dict[tuple[str, str, str], Mark]:
    """(model, arm, set label) -> mark, from the significant tests against the reference arm of the model."""
    marks: dict[tuple[str, str, str], Mark] = {}
    for test in tests:
        if test.significant and references[test.model] in (test.arm, test.other):
            is_subtracted = test.other == references[test.model]
            arm = test.arm if is_subtracted else test.other
            marks[test.model, arm, test.set_label] = (
                "better" if (test.significant == "better") == is_subtracted else "worse"
            )
    return marks


def _consistency(rows: Sequence[ArmRow], data: ReportData) -> dict[tuple[str, str], AccuracyCell]:
    """(model, arm) -> contrast consistency, with the best student of every model."""
    found = {(row.model, row.name): cell for row in rows if (cell := consistency_cell(row, data))}
    for model in tables.student_models(rows):
        rivals = [(model, row.name) for row in tables.students_of(rows, model) if (model, row.name) in found]
        found |= zip(rivals, tables.mark_best([found[key] for key in rivals]), strict=True)
    return found


def _cell(found: AccuracyCell | None, mark: Mark) -> MethodCell | None:
    if found is None:
        return None
    notes = []
    if found.collapsed:
        runs = len(found.run_accuracies)
        notes.append("collapsed" + (f" in {found.collapsed} of {runs}" if runs > 1 else ""))
    elif found.against_chance == "below":
        notes.append("below chance")
    return MethodCell(percent(found.estimate.value), span(found.estimate), found.best, mark, tuple(notes))


def _runs(row: ArmRow) -> MethodCell:
    seeds = ", ".join(str(run.seed) for run in row.runs)
    return MethodCell(str(row.seeds), f"seed{'s' if row.seeds > 1 else ''} {seeds}")


def _sizes(cells: Sequence[AccuracyCell]) -> str:
    """The number of questions or groups; a range if it differs by row."""
    sizes = sorted({cell.n for cell in cells})
    return "\N{EN DASH}".join(f"{n:,}" for n in dict.fromkeys((sizes[0], sizes[-1])))


def _baselines(
    rows: Sequence[ArmRow], sets: Sequence[EvalSet], consistency: Sequence[AccuracyCell]
) -> Iterator[MethodLine]:
    """The lines of guessing, and of always naming the option that is right most often."""
    chances = [chance(rows, evalset) for evalset in sets] + [cell.chance for cell in consistency[:1]]
    if any(value is not None for value in chances):
        cells = tuple(None if value is None else MethodCell(percent(value)) for value in chances)
        yield MethodLine("chance", "baseline", "random choice", cells)
    majorities = [majority(rows, evalset) for evalset in sets] + [None for _ in consistency[:1]]
    if any(majority is not None for majority in majorities):
        cells = tuple(None if m is None else MethodCell(percent(m["accuracy"]), m["option"]) for m in majorities)
        yield MethodLine("majority answer", "baseline", "the most frequent right option", cells)


def chance(rows: Sequence[ArmRow], evalset: EvalSet) -> float | None:
    """Returns the mean accuracy of guessing on a set; None if it is unknown for an arm."""
    found = [row.cells[evalset.label].chance for row in rows if evalset.label in row.cells]
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if found and len(known) == len(found) else None
