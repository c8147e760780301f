"""Sentences of the report's summary."""

from collections.abc import Mapping, Sequence
from typing import Any

from scotd_jax.reporting.comparisons import ComparisonRow, TrendRow
from scotd_jax.reporting.data import EvalSet, ReportData
from scotd_jax.reporting.tables import ArmRow, mean_score, p_text, percent, points, span

NOTABLE = 0.05  # smallest share of format failures that the summary mentions
MAX_LISTED = 4  # arms that one sentence lists


def describe_arm(row: ArmRow) -> str:
    """Returns an arm in words, such as "label-only training"."""
    if row.samples == 0:
        return "label-only training"
    if row.samples and row.samples > 1:
        return f"training on {row.samples} rationales per question"
    return quote(row)


def quote(row: ArmRow | ComparisonRow) -> str:
    """Returns the name of an arm, or of the arm that a comparison subtracts, in quotation marks."""
    name = row.other if isinstance(row, ComparisonRow) else row.name
    return f"\N{LEFT DOUBLE QUOTATION MARK}{name}\N{RIGHT DOUBLE QUOTATION MARK}"


def state_accuracy(row: ArmRow, evalset: EvalSet, data: ReportData) -> str:
    """Returns a sentence on an arm's accuracy on one set, with its interval and chance."""
    cell = row.cells[evalset.label]
    guessing = f"; chance is {percent(cell.chance)} %" if cell.chance is not None else ""
    runs = f", mean of {len(cell.run_accuracies)} runs" if len(cell.run_accuracies) > 1 else ""
    return (
        f"{quote(row)} answers {percent(cell.estimate.value)} % of {cell.n:,} {evalset.name} questions correctly "
        f"({100 * data.confidence:g} % interval {span(cell.estimate)} %{runs}{guessing})."
    )


def compare_on_sets(tests: Sequence[ComparisonRow], sets: Sequence[EvalSet]) -> list[str]:
    """Returns a sentence on the outcomes of the comparisons of one pair of arms, by outcome."""
    names = {s.label: s.name for s in sets}
    parts = []
    for outcome, words in (("better", "ahead"), ("worse", "behind"), ("", "not significantly different")):
        in_group = [f"{names[t.set_label]} ({points(t.difference.value)})" for t in tests if t.significant == outcome]
        if in_group:
            parts.append(f"{words} on {join_parts(in_group)}")
    return [f"On the other measures it is {join_parts(parts, '; ')}, compared with the same arm."] if parts else []


def list_leads(tests: Sequence[ComparisonRow], main: EvalSet) -> list[str]:
    """Returns a sentence on the differences of one arm from others on one set."""
    if not tests:
        return []
    parts = [
        f"{points(t.difference.value)} points over {quote(t)}" + ("" if t.significant else " (not significant)")
        for t in tests[:MAX_LISTED]
    ]
    return [f"Its lead on {main.name} is {join_parts(parts)}{count_unlisted(tests)}."]


def count_unlisted(arms: Sequence[object]) -> str:
    """Returns the end of a list of which only the first MAX_LISTED arms are printed; "" if these are all."""
    return f"; {len(arms) - MAX_LISTED} more are in the tables" if len(arms) > MAX_LISTED else ""


def state_trend(trend: TrendRow | None, students: Sequence[ArmRow]) -> list[str]:
    """Returns a sentence on a trend of some students with the number of rationales; none without a trend."""
    if trend is None:
        return []
    by_arm = {(row.model, row.name): row.cells[trend.set_label].estimate.value for row in students}
    numbers = join_parts([str(value) for value in trend.values])
    shares = join_parts([percent(by_arm[arm]) for arm in trend.arms])
    verb = {"better": "rises", "worse": "falls", "": "shows no significant trend"}[trend.significant]
    return [
        f"Accuracy {verb} with more samples ({points(trend.difference.value)} points per step, p {p_text(trend.p)}): "
        f"{shares} % with {numbers} per question."
    ]


def list_below_chance(row: ArmRow, sets: Sequence[EvalSet]) -> list[str]:
    """Returns a sentence on the sets on which an arm is below chance; none if there are none."""
    below = []
    for evalset in sets:
        cell = row.cells.get(evalset.label)
        parsable = 1 - (mean_score(row, evalset.label, "format_failure_rate") or 0.0)
        if cell and cell.collapsed:
            continue  # `list_collapsed` describes it
        # Format failures alone may push an accuracy below chance, which is no sign of a cue.
        if cell and cell.chance and cell.against_chance == "below" and cell.estimate.value < cell.chance * parsable:
            below.append(evalset)
    if not below:
        return []
    parts = [f"{s.name} ({percent(row.cells[s.label].estimate.value)} %)" for s in below]
    return [f"{quote(row)} is below chance on {join_parts(parts)}, a sign that it follows a surface cue there."]


def list_format_failures(students: Sequence[ArmRow], main: EvalSet) -> list[str]:
    """Returns a sentence on the arms with many unparsable answers; none if there are none."""
    shares = [(r, mean_score(r, main.label, "format_failure_rate") or 0.0) for r in students]
    parts = [f"{quote(r)} {percent(share)} %" for r, share in shares if share >= NOTABLE]
    arms = f"{join_parts(parts[:MAX_LISTED])}{count_unlisted(parts)}"
    return [f"Answers on {main.name} that could not be parsed count as wrong: {arms}."] if parts else []


def list_collapsed(students: Sequence[ArmRow], main: EvalSet) -> list[str]:
    """Returns a sentence on the arms that have collapsed on a set; none if there are none."""
    parts = []
    for row in students:
        cell, found = row.cells[main.label], collapses(row, main.label)
        if found:
            options = ", ".join(dict.fromkeys(collapse["option"] for collapse in found))
            at_least, share = "at least " if len(found) > 1 else "", percent(min(entry["named"] for entry in found))
            runs = f" in {cell.collapsed} of {len(cell.run_accuracies)} runs" if len(cell.run_accuracies) > 1 else ""
            parts.append(f"{quote(row)} (names {options} in {at_least}{share} % of its answers{runs})")
    if not parts:
        return []
    arms = f"{join_parts(parts[:MAX_LISTED])}{count_unlisted(parts)}"
    return [f"Collapsed on {main.name}, so that the accuracy is that of one option: {arms}."]


def collapses(row: ArmRow, label: str) -> list[Mapping[str, Any]]:
    """Returns the collapse of every run that has collapsed on a set (`evaluation.answer_distribution`)."""
    answers = [run.results[label].get("answers") for run in row.runs if label in run.results]
    return [found["collapsed"] for found in answers if found and found["collapsed"]]


def state_teacher(all_rows: Sequence[ArmRow], sets: Sequence[EvalSet]) -> list[str]:
    """Returns a sentence on the accuracy of the first teacher; none without one."""
    for row in all_rows:
        main = next((s for s in sets if row.role == "teacher" and s.label in row.cells), None)
        if main:
            share = percent(row.cells[main.label].estimate.value)
            return [f"For reference, {quote(row)} answers {share} % of the {main.name} questions correctly."]
    return []


def state_runs(students: Sequence[ArmRow]) -> list[str]:
    """Returns a sentence on the number of training runs of every arm."""
    fewest = min(r.seeds for r in students)
    if fewest == 1:
        return ["There is one training run per arm, so the variance between runs was not measured."]
    at_least = "" if all(r.seeds == fewest for r in students) else "at least "
    return [f"Every arm was trained {at_least}{fewest} times."]


def join_parts(parts: Sequence[str], comma: str = ", ") -> str:
    """Joins parts of a sentence, the last two of a list with commas by "and"."""
    last = " and " if comma == ", " else comma
    return last.join([comma.join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def bind_blanks(text: str) -> str:
    """Replaces the blanks before a percent sign and around an equals sign by no-break spaces."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%").replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
