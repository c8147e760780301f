"""Claims of a report: each is tested by comparisons of arms, a trend or votes, and holds if all of them confirm it.

The tests of a claim are a family of their own: their p-values are corrected for each other, and not for other claims.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

from scotd_jax.config import Claim
from scotd_jax.config.compared_arms import split_pair
from scotd_jax.evaluation.outcome_tables import paired_tables
from scotd_jax.evaluation.paired_tests import PairedTest, compare_paired, trend_test
from scotd_jax.reporting import comparisons, tables
from scotd_jax.reporting.comparisons import CorrectedTest, OutcomesOf
from scotd_jax.reporting.data import CONSISTENCY, ReportData
from scotd_jax.reporting.tables import ArmRow

Verdict = Literal["holds", "does not hold", "inconclusive", "not tested"]


@dataclasses.dataclass(frozen=True)
class ClaimTest(CorrectedTest):
    """One test of a claim; its effect is positive if the claim holds.

    Attributes:
      effect: what the effect is: the arms of a difference, of a trend, or of a vote.
      model: base models of the arms.
      set_label: label of the question set, or `CONSISTENCY`.
    """

    effect: str
    model: str
    set_label: str


@dataclasses.dataclass(frozen=True)
class ClaimResult:
    """A claim with its tests.

    Attributes:
      text: the claim.
      tests: the tests that could be made.
      missing: descriptions of those that could not, because an evaluation is missing or shares no questions and seeds.
    """

    text: str
    tests: Sequence[ClaimTest]
    missing: Sequence[str]

    @property
    def verdict(self) -> Verdict:
        """Whether all tests confirm the claim, one contradicts it, or neither."""
        found = [test.significant for test in self.tests]
        if "worse" in found:
            return "does not hold"
        if self.missing or not found:
            return "not tested"
        return "holds" if all(found) else "inconclusive"

    @property
    def style(self) -> str:
        """CSS class of the verdict."""
        return {"holds": "better", "does not hold": "worse"}.get(self.verdict, "")


def claim_results(data: ReportData, rows: Sequence[ArmRow]) -> list[ClaimResult]:
    """Tests all claims of a report. `rows` all have the same `read`."""
    return [_test_claim(claim, data, rows) for claim in data.claims.values()]


def _test_claim(claim: Claim, data: ReportData, rows: Sequence[ArmRow]) -> ClaimResult:
    labels = claim.sets or [evalset.label for evalset in tables.evaluated_sets(data)[:1]]
    tests, about, missing = [], [], []
    for label in labels:
        for effect, found in (
            *(
                (f"{a} {tables.MINUS} {b}", _pair_tests(a, b, label, data, rows))
                for a, b in map(split_pair, claim.comparisons)
            ),
            *(
                [(f"per step: {', '.join(claim.trend)}", _trends(claim.trend, label, data, rows))]
                if claim.trend
                else []
            ),
            *((f"vote {tables.MINUS} single response: {arm}", _votes(arm, label, data, rows)) for arm in claim.votes),
        ):
            made = list(found)
            tests += [test for _, test in made]
            about += [(effect, model, label) for model, _ in made]
            missing += [] if made else [f"{effect} on {label}"]
    corrected = comparisons.correct_family(tests, data.confidence)
    results = [
        ClaimTest(**comparisons.fields_of(test), effect=effect, model=model, set_label=label)
        for test, (effect, model, label) in zip(corrected, about, strict=True)
    ]
    return ClaimResult(claim.text, results, missing)


def _pair_tests(
    arm: str, other: str, label: str, data: ReportData, rows: Sequence[ArmRow]
) -> Iterator[tuple[str, PairedTest]]:
    outcomes_of, clusters = _measure(label, data)
    for pair in comparisons.named_pairs([(arm, other)], rows):
        # An arm is compared between base models: the largest one should be best.
        first, second = sorted(pair, key=lambda row: row.parameters or 0, reverse=True) if arm == other else pair
        if found := comparisons.tables_of([first, second], outcomes_of, clusters):
            models = dict.fromkeys(row.model for row in (first, second) if row.model)
            yield f" {tables.MINUS} ".join(models), compare_paired(found[0], found[1], data.confidence)


def _trends(
    arms: Sequence[str], label: str, data: ReportData, rows: Sequence[ArmRow]
) -> Iterator[tuple[str, PairedTest]]:
    outcomes_of, clusters = _measure(label, data)
    for model in dict.fromkeys(row.model for row in rows):
        by_name = {row.name: row for row in rows if row.model == model}
        if all(arm in by_name for arm in arms) and (
            found := comparisons.tables_of([by_name[arm] for arm in arms], outcomes_of, clusters)
        ):
            yield model, trend_test(found, data.confidence)


def _votes(arm: str, label: str, data: ReportData, rows: Sequence[ArmRow]) -> Iterator[tuple[str, PairedTest]]:
    for row in rows:
        runs = [run for run in row.runs if row.name == arm and label in run.vote_outcomes]
        outcomes = [[run.vote_outcomes[label] for run in runs], [run.outcomes[label] for run in runs]]
        if runs and (found := paired_tables(outcomes, data.clusters)):
            yield row.model, compare_paired(found[0], found[1], data.confidence)


def _measure(label: str, data: ReportData) -> tuple[OutcomesOf, dict[str, str]]:
    """The outcomes of a run on a set or in contrast consistency, and the clusters of its questions or groups."""
    if label == CONSISTENCY.label:
        return data.consistent_groups, data.group_clusters
    return comparisons.of_set(label), data.clusters


def claims_markdown(results: Sequence[ClaimResult], confidence: float) -> str:
    """Returns the table of claims in Markdown: one line per test, with the claim and its verdict on its first line."""
    lines = [
        f"| claim | effect | on | points | {100 * confidence:g} % interval | p | result |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        cells = [[result.text, *_cells(test)] for test in result.tests]
        cells += [[result.text, missing, "", "", "", ""] for missing in result.missing]
        for number, row in enumerate(cells):
            text, *rest = row
            verdict = f"**{result.verdict}**" if number == 0 else ""
            escaped = [cell.replace("|", "\\|").replace("\n", " ") for cell in ["" if number else text, *rest]]
            lines.append(f"| {' | '.join([*escaped, verdict])} |")
    return "\n".join(lines) + "\n"


def _cells(test: ClaimTest) -> list[str]:
    effect = f"{test.effect} ({test.model})" if test.model else test.effect
    interval = f"{tables.points(test.difference.low)} to {tables.points(test.difference.high)}"
    p_value = tables.p_text(test.p).removeprefix("= ")
    return [effect, test.set_label, tables.points(test.difference.value), interval, p_value]
