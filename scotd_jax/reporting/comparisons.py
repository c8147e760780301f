"""Comparisons of a report: which arms are compared, and the tests of each family with Holm's correction.

There are three families, and every p-value is corrected for all tests of its family:

    arms     every compared pair of arms, on every set and for contrast consistency
    votes    majority vote against the single response, for every arm and set
    trends   accuracy against the number of rationales, of training questions or of parameters, for every curve and set

The pairs are those of `ReportData.comparisons`, or the default ones (`default_pairs`). A test of several runs covers
the variance between runs (`evaluation.two_level`).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

from scotd_jax.evaluation.intervals import Estimate
from scotd_jax.evaluation.multiplicity import holm_correction
from scotd_jax.evaluation.outcome_tables import Outcomes, OutcomeTable, paired_tables
from scotd_jax.evaluation.paired_tests import PairedTest, compare_paired, trend_test
from scotd_jax.reporting.curves import AXES, Axis, curves
from scotd_jax.reporting.data import CONSISTENCY, ReportData, RunResult
from scotd_jax.reporting.tables import ArmRow, evaluated_sets, label_only, select_method, student_models

OutcomesOf = Callable[[RunResult], Outcomes | None]


@dataclasses.dataclass(frozen=True)
class CorrectedTest:
    """A test with a p-value that is corrected for all tests of its family.

    Attributes:
      difference: the difference in accuracy, or the trend per step, with its interval.
      p: p-value after Holm's correction.
      questions: number of distinct questions, or of contrast groups.
      seeds: number of paired runs.
      significant: "better" or "worse" if the interval excludes zero and p is below 1 - confidence, else "".
    """

    difference: Estimate
    p: float
    questions: int
    seeds: int
    significant: str


@dataclasses.dataclass(frozen=True)
class ComparisonRow(CorrectedTest):
    """One arm minus another on one set, or in contrast consistency.

    Attributes:
      arm: name of the arm.
      other: name of the arm that is subtracted.
      model: base model of `arm`.
      other_model: base model of `other`.
      set_label: label of the question set, or `CONSISTENCY`.
      read: how the answers of both arms were read.
    """

    arm: str
    other: str
    model: str
    other_model: str
    set_label: str
    read: str

    @property
    def pair(self) -> tuple[str, str, str, str, str]:
        """The compared arms, with models and reading."""
        return self.model, self.arm, self.other_model, self.other, self.read


@dataclasses.dataclass(frozen=True)
class VoteRow(CorrectedTest):
    """Majority vote minus the single response of an arm on one set. Attributes as in `ComparisonRow`."""

    arm: str
    model: str
    set_label: str
    read: str


@dataclasses.dataclass(frozen=True)
class TrendRow(CorrectedTest):
    """Trend of a curve on one set: points of accuracy per step from one value of the axis to the next.

    Attributes:
      axis: what the arms of the curve differ in.
      curve: name of the curve.
      set_label: label of the question set.
      values: values of the arms, in order.
      arms: (model, name) of the arms, in the same order.
    """

    axis: Axis
    curve: str
    set_label: str
    values: tuple[int, ...]
    arms: tuple[tuple[str, str], ...]


def compare_arms(data: ReportData, all_rows: Sequence[ArmRow]) -> list[ComparisonRow]:
    """Compares pairs of arms with the same `read` on every set and in contrast consistency.

    Pairs questions by id and runs by seed. A single run of a reference model or of a model before training, which does
    not depend on a seed, is paired with every run of the other arm.
    """
    found, compared = [], []
    for read in dict.fromkeys(row.read for row in all_rows):
        rows = [row for row in all_rows if row.read == read]
        for arm, other in named_pairs(data.comparisons, rows) if data.comparisons else default_pairs(rows):
            for label, outcomes_of, clusters in _measures(data):
                if tables := tables_of([arm, other], outcomes_of, clusters):
                    found.append(compare_paired(tables[0], tables[1], data.confidence))
                    compared.append((arm, other, label))
    return [
        ComparisonRow(
            **fields_of(test),
            arm=arm.name,
            other=other.name,
            model=arm.model,
            other_model=other.model,
            set_label=label,
            read=arm.read,
        )
        for (arm, other, label), test in zip(compared, correct_family(found, data.confidence), strict=True)
    ]


def default_pairs(all_rows: Sequence[ArmRow]) -> list[tuple[ArmRow, ArmRow]]:
    """Returns the pairs of the default family, for rows with the same `read`.

    Per model: the arm with most samples against each other student and the model before training; each other student
    against label-only; label-only against the model before training. Without both of these arms: every pair of
    students. Between models: the arms with most samples.
    """
    pairs, methods = [], []
    for model in student_models(all_rows):
        students = [r for r in all_rows if r.model == model and r.role == "student"]
        untrained = [r for r in all_rows if r.model == model and r.role == "untrained"]
        method, labels = select_method(students, model), label_only(students)
        if method is not None:
            methods.append(method)
            pairs += [(method, other) for other in [*untrained, *students] if other is not method]
        if labels is not None:
            pairs += [(arm, labels) for arm in students if arm is not labels and arm is not method]
            pairs += [(labels, other) for other in untrained]
        if method is None and labels is None:
            pairs += [*itertools.combinations(students, 2), *itertools.product(students, untrained)]
    return pairs + list(itertools.combinations(methods, 2))


def named_pairs(names: Sequence[tuple[str, str]], all_rows: Sequence[ArmRow]) -> list[tuple[ArmRow, ArmRow]]:
    """Returns the rows of named pairs of arms: within each model that has both, else of every two models."""
    pairs = []
    for name, other in names:
        first, second = ([r for r in all_rows if r.name == n] for n in (name, other))
        if name == other:
            pairs += itertools.combinations(first, 2)
            continue
        candidates = list(itertools.product(first, second))
        pairs += [(a, b) for a, b in candidates if a.model == b.model] or candidates
    return pairs


def untested_pairs(data: ReportData, tests: Sequence[ComparisonRow]) -> list[str]:
    """Returns the named comparisons without a test, which need questions and seeds that both arms have."""
    tested = {(test.arm, test.other) for test in tests}
    return [f"{arm} vs {other}" for arm, other in data.comparisons if (arm, other) not in tested]


def compare_votes(data: ReportData, all_rows: Sequence[ArmRow]) -> list[VoteRow]:
    """Compares the majority vote with the single response of the same run, for every arm and set that has votes."""
    found, rows = [], []
    for row, evalset in itertools.product(all_rows, evaluated_sets(data)):
        label = evalset.label
        runs = [run for run in row.runs if label in run.vote_outcomes]
        tables = runs and paired_tables(
            [[run.vote_outcomes[label] for run in runs], [run.outcomes[label] for run in runs]], data.clusters
        )
        if tables:
            found.append(compare_paired(tables[0], tables[1], data.confidence))
            rows.append((row, label))
    return [
        VoteRow(**fields_of(test), arm=row.name, model=row.model, set_label=label, read=row.read)
        for (row, label), test in zip(rows, correct_family(found, data.confidence), strict=True)
    ]


def find_trends(data: ReportData, all_rows: Sequence[ArmRow]) -> list[TrendRow]:
    """Tests for every curve and set whether accuracy changes along the curve.

    All rows have the same `read`.
    """
    found, rows = [], []
    lines = [(axis, curve, line) for axis in AXES for curve, line in curves(all_rows, axis).items()]
    for (axis, curve, line), evalset in itertools.product(lines, evaluated_sets(data)):
        here = [row for row in line if evalset.label in row.cells]
        tables = len(here) > 1 and tables_of(here, of_set(evalset.label), data.clusters)
        if tables:
            found.append(trend_test(tables, data.confidence))
            rows.append((axis, curve, evalset.label, here))
    return [
        TrendRow(
            **fields_of(test),
            axis=axis,
            curve=curve,
            set_label=label,
            values=tuple(axis.value(row) for row in here),
            arms=tuple((row.model, row.name) for row in here),
        )
        for (axis, curve, label, here), test in zip(rows, correct_family(found, data.confidence), strict=True)
    ]


def correct_family(tests: Sequence[PairedTest], confidence: float) -> list[CorrectedTest]:
    """Corrects the p-values of a family, and decides which effects are significant."""
    corrected = holm_correction([test.p_value for test in tests])
    return [
        CorrectedTest(t.effect, p, t.questions, t.runs, _significant(t.effect, p, confidence))
        for t, p in zip(tests, corrected, strict=True)
    ]


def fields_of(test: CorrectedTest) -> dict:
    """Returns the fields that the rows of all families have."""
    return {field.name: getattr(test, field.name) for field in dataclasses.fields(CorrectedTest)}


def _significant(difference: Estimate, p: float, confidence: float) -> str:
    if p >= 1 - confidence or difference.low <= 0 <= difference.high:
        return ""
    return "better" if difference.low > 0 else "worse"


def _measures(data: ReportData) -> Iterator[tuple[str, OutcomesOf, dict[str, str]]]:
    """Every set, and contrast consistency: label, outcomes of a run, clusters."""
    for evalset in evaluated_sets(data):
        yield evalset.label, of_set(evalset.label), data.clusters
    if data.contrast_groups:
        yield CONSISTENCY.label, data.consistent_groups, data.group_clusters


def of_set(label: str) -> OutcomesOf:
    """Returns a function from a run to its outcomes on a set."""
    return lambda run: run.outcomes.get(label)


def tables_of(rows: Sequence[ArmRow], outcomes_of: OutcomesOf, clusters: dict[str, str]) -> list[OutcomeTable] | None:
    """Returns the tables of the runs with seeds that all arms share; None if there are none."""
    by_seed = [{run.seed: found for run in row.runs if (found := outcomes_of(run))} for row in rows]
    if not all(by_seed):
        return None
    # The weights of a reference model do not depend on a seed.
    fixed = [row.role != "student" and len(runs) == 1 for row, runs in zip(rows, by_seed, strict=True)]
    varying = [runs for runs, is_fixed in zip(by_seed, fixed, strict=True) if not is_fixed] or by_seed[:1]
    seeds = sorted(set.intersection(*map(set, varying)))
    arms = [
        [next(iter(runs.values())) if is_fixed else runs[seed] for seed in seeds]
        for runs, is_fixed in zip(by_seed, fixed, strict=True)
    ]
    return paired_tables(arms, clusters) if seeds else None
