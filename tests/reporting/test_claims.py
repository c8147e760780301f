"""Claims of the report: their tests, the verdict, and the table in Markdown."""

import dataclasses

import pytest

from scotd_jax import config as c
from scotd_jax.config.compared_arms import check_claims
from scotd_jax.errors import InputError
from scotd_jax.evaluation.multiplicity import holm_correction
from scotd_jax.reporting import comparisons, tables
from scotd_jax.reporting.claims import ClaimResult, claim_results, claims_markdown
from scotd_jax.reporting.data import ReportData
from scotd_jax.reporting.html_page import write_report
from tests.helpers.report_arms import arm

ARMS = {"label only": 0.50, "N = 1": 0.52, "N = 5": 0.70, "N = 30": 0.85}


def data(**claims: c.Claim) -> ReportData:
    runs = [arm(name, accuracy, model="small") for name, accuracy in ARMS.items()]
    runs += [
        arm(name, accuracy - 0.3, model="tiny") for name, accuracy in ARMS.items() if name in ("label only", "N = 30")
    ]
    return ReportData("t", runs, claims=claims)


def results(**claims: c.Claim) -> list[ClaimResult]:
    report = data(**claims)
    return claim_results(report, tables.arm_rows(report))


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        (c.Claim("more is better", comparisons=("N = 30 vs N = 5",)), "holds"),
        (c.Claim("less is better", comparisons=("N = 5 vs N = 30",)), "does not hold"),
        (c.Claim("one is better than none", comparisons=("N = 1 vs label only",)), "inconclusive"),
        (c.Claim("both", comparisons=("N = 30 vs N = 5", "N = 1 vs label only")), "inconclusive"),
        (c.Claim("one of them not", comparisons=("N = 30 vs N = 5", "N = 1 vs N = 5")), "does not hold"),
        (c.Claim("rises", trend=("N = 1", "N = 5", "N = 30")), "holds"),
        (c.Claim("falls", trend=("N = 30", "N = 5", "N = 1")), "does not hold"),
        (c.Claim("unknown set", comparisons=("N = 30 vs N = 5",), sets=("w.test", "w.unseen")), "not tested"),
        (c.Claim("no votes", votes=("N = 30",)), "not tested"),
    ],
    ids=lambda value: value.text if isinstance(value, c.Claim) else "",
)
def test_claim_holds_if_all_tests_confirm_it(claim, verdict):
    assert [result.verdict for result in results(claim=claim)] == [verdict]


def test_claim_is_tested_for_every_base_model_that_has_the_arms():
    (claim,) = results(claim=c.Claim("t", comparisons=("N = 30 vs label only", "N = 5 vs label only")))
    assert [(test.model, round(test.difference.value, 2)) for test in claim.tests] == [
        ("small", 0.35),
        ("tiny", 0.35),
        ("small", 0.2),
    ]


def test_larger_model_is_claimed_to_be_better_between_base_models():
    runs = [arm("N = 30", 0.6, model="tiny", parameters=10), arm("N = 30", 0.9, model="small", parameters=20)]
    report = ReportData("t", runs, claims={"size": c.Claim("t", comparisons=("N = 30 vs N = 30",))})
    (claim,) = claim_results(report, tables.arm_rows(report))
    assert (claim.verdict, claim.tests[0].model) == ("holds", "small \N{MINUS SIGN} tiny")


def test_p_values_are_corrected_within_a_claim_only():
    claims = {
        "one": c.Claim("t", comparisons=("N = 5 vs label only",)),
        "three": c.Claim("t", comparisons=("N = 5 vs label only", "N = 30 vs N = 5", "N = 1 vs label only")),
    }
    one, three = results(**claims)
    rows = [row for row in tables.arm_rows(data()) if row.model == "small"]
    by_name = {row.name: row for row in rows}
    raw = [
        comparisons.compare_paired(*comparisons.tables_of([by_name[a], by_name[b]], comparisons.of_set("w.test"), {}))
        for a, b in (("N = 5", "label only"), ("N = 30", "N = 5"), ("N = 1", "label only"))
    ]
    assert one.tests[0].p == raw[0].p_value
    assert [test.p for test in three.tests] == pytest.approx(holm_correction([test.p_value for test in raw]))
    assert three.tests[0].p > one.tests[0].p


def test_votes_and_consistency_are_tested():
    voting = dataclasses.replace(arm("N = 30", 0.5), vote_outcomes={"w.test": {f"q{i:03}": 1.0 for i in range(100)}})
    report = ReportData("t", [voting], claims={"vote": c.Claim("t", votes=("N = 30",))})
    (claim,) = claim_results(report, tables.arm_rows(report))
    assert (claim.verdict, claim.tests[0].difference.value) == ("holds", 0.5)


def test_page_and_markdown_have_one_line_per_test(tmp_path):
    claims = {
        "more": c.Claim("A | B are better", comparisons=("N = 30 vs N = 5", "N = 1 vs label only")),
        "votes": c.Claim("votes help", votes=("N = 30",)),
    }
    report = data(**claims)
    write_report(tmp_path, report)
    lines = (tmp_path / "claims.md").read_text().splitlines()
    assert lines == claims_markdown(results(**claims), 0.95).splitlines()
    assert lines[2].startswith("| A \\| B are better | N = 30 \N{MINUS SIGN} N = 5 (small) | w.test | +15.0 | ")
    assert lines[2].endswith("| **inconclusive** |")
    assert lines[3].startswith("|  | N = 1 \N{MINUS SIGN} label only (small) | w.test | +2.0 | ")
    assert (
        lines[4]
        == "| votes help | vote \N{MINUS SIGN} single response: N = 30 on w.test |  |  |  |  | **not tested** |"
    )
    page = (tmp_path / "index.html").read_text()
    assert "A | B are better: <span" in page
    assert "inconclusive</span>" in page
    write_report(tmp_path / "plain", data())
    assert not (tmp_path / "plain" / "claims.md").exists()


def config(**claim) -> c.Config:
    students = {
        name: c.Student(c.Model(architecture="opt-tiny", tokenizer="task:w"), "gold", eval_sets=("w.test",), arm=name)
        for name in ("a", "b")
    }
    return c.Config(
        tasks={"w": c.Task(title="world")},
        students=students,
        evaluation=c.Evaluation(claims={"x": c.Claim("t", **claim)}),
    )


def test_claims_name_arms_and_sets_of_the_report():
    check_claims(config(comparisons=("a vs b",), trend=("b", "a"), sets=("world.test", "contrast consistency")))


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"comparisons": ("a vs c",)}, r"claims.x.comparisons\[0\]: 'c' is not an arm"),
        ({"comparisons": ("a versus b",)}, "expected two arms, 'ARM vs OTHER'"),
        ({"trend": ("a", "c")}, r"claims.x.trend\[1\]: 'c' is not an arm"),
        ({"trend": ("a", "b"), "sets": ("w.test",)}, r"claims.x.sets\[0\]: 'w.test' is not a reported question set"),
        ({"votes": ("a",)}, "claims.x.votes: there are no votes; set config.evaluation.self_consistency.n"),
    ],
)
def test_claims_about_anything_else_are_refused(claim, message):
    with pytest.raises(InputError, match=message):
        check_claims(config(**claim))


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"comparisons": ["a vs b"]}, "claims.x.text: state the claim in words"),
        ({"text": "t"}, "claims.x.comparisons: expected what tests the claim"),
        ({"text": "t", "trend": ["a"]}, "claims.x.trend: expected at least two arms, found 'a'"),
    ],
)
def test_claims_without_text_or_tests_are_refused(claim, message):
    with pytest.raises(InputError, match=message):
        c.from_mapping(c.Config, {"evaluation": {"claims": {"x": claim}}})
