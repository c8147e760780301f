"""Summary of the results in words: a headline and one paragraph per model.

A difference counts as significant only if its interval excludes zero and its p-value, Holm-corrected over its family
(`comparisons`), is below the significance level.
"""

from collections.abc import Sequence
from typing import NamedTuple

from scotd_jax.reporting import phrases
from scotd_jax.reporting.comparisons import ComparisonRow, TrendRow
from scotd_jax.reporting.data import CONSISTENCY, EvalSet, ReportData
from scotd_jax.reporting.tables import (
    ArmRow,
    evaluated_sets,
    label_only,
    main_reading,
    mean_score,
    p_text,
    percent,
    points,
    select_method,
    student_models,
)


class Findings(NamedTuple):
    """A headline, and paragraphs: one on the run and its first model, a short one on each further model."""

    headline: str
    paragraphs: list[str]


def summarize_findings(
    data: ReportData, all_rows: Sequence[ArmRow], tests: Sequence[ComparisonRow], trends: Sequence[TrendRow]
) -> Findings:
    """Returns a summary that can be read without the rest of the report.

    Args:
      data: the report.
      all_rows: `tables.arm_rows` of the data.
      tests: `comparisons.compare_arms` of the data.
      trends: `comparisons.find_trends` of the rows with the main reading.
    """
    sets = evaluated_sets(data)
    all_rows, others = _split_readings(all_rows)
    tests = [t for t in tests if all_rows and t.read == all_rows[0].read]
    students = [r for r in all_rows if r.role == "student" and r.cells]
    if not students:
        return _without_students([r for r in all_rows if r.cells], sets, data)
    models = [m for m in student_models(all_rows) if any(r.model == m for r in students)]
    summaries = [
        _about_model(
            data,
            [r for r in all_rows if r.model == m and r.cells],
            sets,
            [t for t in tests if t.model == t.other_model == m],
            trends,
        )
        for m in models
    ]
    headline, before, sentences = summaries[0]
    first = [[r for r in rows if r.model == models[0]] for rows in (all_rows, others)]
    by_choices = _by_choices(first[0], first[1], sets)
    paragraphs = [
        " ".join(
            [*before, *sentences, *by_choices, *phrases.state_teacher(all_rows, sets), *phrases.state_runs(students)]
        )
    ]
    for model, (finding, before, details) in zip(models[1:], summaries[1:], strict=True):
        # Paragraphs on further models are short: two sentences after the first one, which gives the accuracy.
        paragraphs.append(" ".join([f"{model or 'Other students'}: {finding}", *before, *details[1:3]]))
    if len(models) > 1:
        headline = f"{headline.removesuffix('.')} ({models[0]})." if models[0] else headline
    return Findings(phrases.bind_blanks(headline), [phrases.bind_blanks(p) for p in paragraphs])


def _about_model(
    data: ReportData,
    model_rows: Sequence[ArmRow],
    sets: Sequence[EvalSet],
    tests: Sequence[ComparisonRow],
    trends: Sequence[TrendRow],
) -> tuple[str, list[str], list[str]]:
    """Returns a headline, sentences on one model before training, and sentences on its students."""
    students = [r for r in model_rows if r.role == "student"]
    untrained = [r for r in model_rows if r.role == "untrained"]
    method, other = _main_pair(data, model_rows, students)
    main = next((s for s in sets if method and other and s.label in method.cells and s.label in other.cells), None)
    if method is None or other is None or main is None:
        headline, sentences = _best(students, sets, data)
        main = main or _first_set(students, sets)
    else:
        rivals = [r for r in students if r is not method and main.label in r.cells]
        tests_of_method = [t for t in tests if t.arm == method.name]
        headline, sentences = _against(method, other, rivals, sets, main, tests_of_method, trends, data)
    before = _before_training(untrained, [t for t in tests if t.set_label == main.label], method, main)
    return headline, before, sentences


def _main_pair(
    data: ReportData, model_rows: Sequence[ArmRow], students: Sequence[ArmRow]
) -> tuple[ArmRow | None, ArmRow | None]:
    """The arms of the headline: the first named pair of the model's arms, or the arm with most samples and a rival.

    The rival is label-only training, or else the other student with the highest accuracy on the first set.
    """
    by_name = {r.name: r for r in model_rows}
    for arm, other in data.comparisons:
        if arm in by_name and other in by_name and arm != other:
            return by_name[arm], by_name[other]
    method = select_method(students, students[0].model)
    if method is None or not method.cells:
        return method, None
    label = _first_set([method], evaluated_sets(data)).label
    rivals = [r for r in students if r is not method and label in r.cells]
    return method, label_only(rivals) or max(rivals, key=lambda r: r.cells[label].estimate.value, default=None)


def _split_readings(all_rows: Sequence[ArmRow]) -> tuple[list[ArmRow], list[ArmRow]]:
    """Returns the rows with the main way of obtaining answers (`ArmRow.read`), and those with the other one."""
    first = main_reading(all_rows)
    return first, [r for r in all_rows if r not in first]


def _by_choices(text_rows: Sequence[ArmRow], rows: Sequence[ArmRow], sets: Sequence[EvalSet]) -> list[str]:
    """Returns a sentence on the accuracies by likelihood of the choices; arms with most format failures come first."""
    students = [r for r in rows if r.role == "student"]
    if not students:
        return []
    main = _first_set(students, sets)
    by_name = {r.name: r for r in text_rows if main.label in r.cells}
    failures = {name: mean_score(r, main.label, "format_failure_rate") or 0.0 for name, r in by_name.items()}
    parts = []
    for row in sorted(students, key=lambda r: -failures.get(r.name, 0.0)):
        if main.label in row.cells:
            text = by_name.get(row.name)
            note = f" ({percent(text.cells[main.label].estimate.value)} from the text)" if text else ""
            parts.append(f"{phrases.quote(row)} {percent(row.cells[main.label].estimate.value)} %{note}")
    shares = f"{phrases.join_parts(parts[: phrases.MAX_LISTED])}{phrases.count_unlisted(parts)}"
    return [f"By likelihood of the choices, which leaves no answer unread, accuracy is on {main.name}: {shares}."]


def _without_students(rows: Sequence[ArmRow], sets: Sequence[EvalSet], data: ReportData) -> Findings:
    if not rows and data.response_sets:
        return Findings(
            "Nothing has been evaluated yet.",
            [phrases.bind_blanks(f"{s.name}: {s.summary}.") for s in data.response_sets],
        )
    if not rows:
        return Findings("Nothing was evaluated in this run.", ["Set eval_sets of a student and run the job evaluate."])
    headline, sentences = _best(rows, sets, data)
    return Findings(
        phrases.bind_blanks(headline),
        [phrases.bind_blanks(" ".join(["No trained student was evaluated.", *sentences]))],
    )


def _first_set(rows: Sequence[ArmRow], sets: Sequence[EvalSet]) -> EvalSet:
    return next(s for s in sets if any(s.label in r.cells for r in rows))


def _before_training(
    untrained: Sequence[ArmRow], tests: Sequence[ComparisonRow], method: ArmRow | None, main: EvalSet
) -> list[str]:
    parts = []
    for row in untrained:
        if main.label in row.cells:
            pairs = [t for t in tests if method is not None and (t.arm, t.other) == (method.name, row.name)]
            note = "".join(f" ({points(t.difference.value)} points, p {p_text(t.p)})" for t in pairs)
            parts.append(f"{phrases.quote(row)} {percent(row.cells[main.label].estimate.value)} %{note}")
    return [f"Before training, the model answers on {main.name}: {phrases.join_parts(parts)}."] if parts else []


def _best(students: Sequence[ArmRow], sets: Sequence[EvalSet], data: ReportData) -> tuple[str, list[str]]:
    """Returns a headline and sentences on the arm with the highest accuracy."""
    main = _first_set(students, sets)
    top = max((r for r in students if main.label in r.cells), key=lambda r: r.cells[main.label].estimate.value)
    share = percent(top.cells[main.label].estimate.value)
    sentences = [phrases.state_accuracy(top, main, data)]
    if len(students) > 1:
        sentences.append(
            "This is the highest accuracy of all arms; there is no student with several samples to compare."
        )
    sentences += phrases.list_collapsed([r for r in students if main.label in r.cells], main)
    return f"{phrases.quote(top)} answers {share} % of the {main.name} questions.", sentences


def _against(
    method: ArmRow,
    other: ArmRow,
    rivals: Sequence[ArmRow],
    sets: Sequence[EvalSet],
    main: EvalSet,
    tests: Sequence[ComparisonRow],
    trends: Sequence[TrendRow],
    data: ReportData,
) -> tuple[str, list[str]]:
    """Returns a headline and sentences that compare the method with another arm.

    Args:
      method: the arm of the headline.
      other: the arm that it is compared with in the headline.
      rivals: all other students of the model with results on the main set.
      sets: all sets.
      main: the set of the headline.
      tests: comparisons of the method with other arms.
      trends: trends of the curves.
      data: the report.
    """
    by_set = {t.set_label: t for t in tests if t.other == other.name}
    a, b = (percent(r.cells[main.label].estimate.value) for r in (method, other))
    first, second = phrases.describe_arm(method), phrases.describe_arm(other)
    test = by_set.get(main.label)
    if test is None:
        headline = f"{first} reaches {a} %, {second} {b} % on {main.name}; the difference was not tested."
    elif test.significant:
        verb = "beats" if test.significant == "better" else "does worse than"
        headline = f"{first} {verb} {second}: {a} % against {b} % on {main.name}."
    else:
        headline = f"no significant difference between {first} and {second}: {a} % and {b} % on {main.name}."
    sentences = [phrases.state_accuracy(method, main, data)]
    if test:
        judged = "which is significant" if test.significant else "which is not significant"
        sentences.append(
            f"The difference from {phrases.quote(other)} is {points(test.difference.value)} points "
            f"(interval {points(test.difference.low)} to {points(test.difference.high)}, p {p_text(test.p)}), {judged}."
        )
    sentences += phrases.compare_on_sets(
        [t for label, t in by_set.items() if label != main.label], [*sets, CONSISTENCY]
    )
    trend = _trend_of(method, main, trends)
    # Arms on the method's curve are left out here, because `phrases.state_trend` describes them.
    on_curve = [name for _, name in trend.arms] if trend else []
    further = {r.name for r in rivals if r is not other and r.name not in on_curve}
    sentences += phrases.list_leads([t for t in tests if t.set_label == main.label and t.other in further], main)
    sentences += phrases.state_trend(trend, [*rivals, method])
    if baseline := label_only(rivals):
        sentences += phrases.list_below_chance(baseline, sets)
    sentences += phrases.list_collapsed([*rivals, method], main)
    sentences += phrases.list_format_failures([*rivals, method], main)
    return headline[0].upper() + headline[1:], sentences


def _trend_of(method: ArmRow, main: EvalSet, trends: Sequence[TrendRow]) -> TrendRow | None:
    """The trend with the number of rationales on the method's curve; None without a test."""
    found = (t for t in trends if t.axis.field == "samples" and t.set_label == main.label)
    return next((t for t in found if (method.model, method.name) in t.arms), None)
