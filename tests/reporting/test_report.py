"""Tests of the report and the model cards: statements follow from the data, and all text is escaped."""

import dataclasses
import re

import numpy as np
import pytest
import yaml
from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.evaluation.intervals import Estimate
from scotd_jax.records import Question, Response
from scotd_jax.reporting import cards, comparisons, plots, tables
from scotd_jax.reporting.changed_words import changed_words
from scotd_jax.reporting.data import BrowserEntry, EvalSet, ReportData, RunResult
from scotd_jax.reporting.headline import Findings, summarize_findings
from scotd_jax.reporting.html_page import render, write_report
from tests.helpers.html_page import Page
from tests.helpers.invented_report import invented


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("\N{NO-BREAK SPACE}", " "))


def findings_of(data: ReportData) -> Findings:
    rows = tables.arm_rows(data)
    trends = comparisons.find_trends(data, tables.main_reading(rows)) if rows else []
    return summarize_findings(data, rows, comparisons.compare_arms(data, rows), trends)


def compared(data: ReportData) -> list[comparisons.ComparisonRow]:
    return comparisons.compare_arms(data, tables.arm_rows(data))


@pytest.fixture(scope="module")
def data() -> ReportData:
    return invented()


@pytest.fixture(scope="module")
def page(data) -> str:
    return render(data)


def arm(name, accuracy, *, seed=0, n=100, label="w.test", **fields) -> RunResult:
    """Returns a run on n questions that is right on the first `accuracy * n` of them and wrong on the others."""
    right = round(accuracy * n)
    outcomes = {label: {f"q{i:03}": float(i < right) for i in range(n)}}
    score = {"n": n, "accuracy": right / n, "interval": [0.0, 1.0], "chance": 0.5}
    return RunResult(name, f"{name}-{seed}", seed, {label: score}, outcomes=outcomes, **fields)


# ---- the page


def test_page_is_well_formed_and_loads_nothing(page):
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids)), "ids of inline plots clash"
    assert not parsed.tags & {"script", "link", "img", "iframe", "object", "embed", "image"}
    assert {link for link in parsed.links if not link.startswith("#")} == set()
    assert {link[1:] for link in parsed.links} <= set(parsed.ids), "a link or a marker points nowhere"
    assert re.findall(r"@import|url\((?!#)|https?://(?!www\.w3\.org)", page) == []


def test_plots_use_the_fonts_and_colours_of_the_page(page):
    svgs = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(svgs) == 4 + 4 + 6  # two plots for each of four sets, and the training curves of six arms
    for svg in svgs:
        assert "#0102" not in svg, "a placeholder colour remains"
        assert not re.search(r"<svg[^>]* (width|height)=", svg)
        assert "var(--sans)" in svg
        assert "DejaVu" not in svg
        assert 'role="img"' in svg
    colours = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", "".join(svgs)))
    assert colours <= {"#ffffff"}, f"colours that do not follow light and dark: {colours}"


def test_page_contains_pass_at_k_calibration_and_variety_of_rationales(page, data):
    words = plain(Page(page).words)
    votes = next(run.votes["world.test"] for run in data.runs if run.votes)
    for k in ("1", "3", "5", "10"):
        assert f"{k}: {tables.percent(votes['pass_at_k'][k])}" in words
        assert f"{k}: {tables.percent(votes['expected'][k])}" in words
    calibration = votes["calibration"]
    numbers = (tables.percent(calibration[name]) for name in ("accuracy", "mean_confidence", "ece", "ece_equal_mass"))
    assert f"share of the votes {''.join(numbers)}" in words
    rationales = data.runs[-1].results["world.test"]["rationales"]
    assert f"{rationales['mean_words']:.1f}{tables.percent(rationales['distinct_2'])}" in words


def test_results_of_earlier_versions_have_no_calibration_and_no_pass_at_k(data):
    def earlier(scores, *new):
        return {label: {k: v for k, v in score.items() if k not in new} for label, score in scores.items()}

    runs = [
        dataclasses.replace(
            run,
            results=earlier(run.results, "rationales"),
            votes=earlier(
                run.votes, "pass_at_k", "pass_at_k_intervals", "expected_intervals", "calibration", "rationales"
            ),
        )
        for run in data.runs
    ]
    parsed = Page(render(dataclasses.replace(data, runs=runs)))
    assert "votes" in parsed.ids
    assert "calibration" not in parsed.ids


def test_page_contains_every_part_of_the_data(page, data):
    words = plain(Page(page).words)
    row = tables.arm_rows(data)[-1]
    cell = row.cells["world.test"]
    assert row.name == "N = 30"
    for text in [
        tables.percent(cell.estimate.value),
        tables.span(cell.estimate),
        "128 questions",
        "seed 0",
        "random choice50.050.050.050.0",
        "opt-tiny, 0.34M parameters, trained here",
        "447 of 450 questions have a kept response",
        "kept 9,650 (74.2 %)",
        "not selected 10,750",
        data.examples[0].questions[0].text,
        next(row.rationale for entry in data.examples for row in entry.answers["N = 30"] if row.rationale),
        "votes: harbour 6, mill 4",
        '"name": "invented"',
        "McNemar's mid-p test. Holm-corrected for this family, all 35 tests of this table",
        "Holm-corrected for this family, all 4 trends",
        findings_of(data).paragraphs[0].replace("\N{NO-BREAK SPACE}", " "),
    ]:
        assert text in words, text


def test_page_shows_training_time_and_goodput(data):
    spent = {"goodput": 0.75, "seconds_updates": 300.0, "seconds_input": 0.0, "seconds_compile": 95.0}
    costs = {"a": {**spent, "rationales_per_second": 12.345}, "b": {**spent, "rationales_per_second": 7.0}}
    page = Page(render(ReportData("r", [], costs=costs)))
    assert "training" in page.ids
    words = plain(page.words)
    assert "studentupdatescompilegoodput, % rationalesper second of updates" in words  # no time for input, MFU unknown
    assert "a5 min 00 s1 min 35 s75.012.35" in words
    costs["b"]["mfu"] = 0.551
    words = plain(Page(render(ReportData("r", [], costs=costs))).words)
    assert "per second of updatesMFU, %" in words
    assert "75.012.35\N{EN DASH}" in words
    assert "75.0755.1" in words


def test_empty_parts_of_the_data_have_no_section():
    bare = ReportData("bare", [arm("only", 0.6)])
    parsed = Page(render(bare))
    assert [i for i in parsed.ids if i.isalpha()] == ["accuracy", "terms"]
    assert "“only” answers 60.0 % of the test questions." in plain(parsed.words)
    nothing = plain(Page(render(ReportData("nothing", []))).words)
    assert "Nothing was evaluated in this run." in nothing


def test_text_of_models_and_files_is_escaped():
    evil = "<script>alert(1)</script>\"'><b onmouseover=x> {{ 7 * 7 }} & $x$ 木"
    question = Question(evil, "t", "s", evil, ("a", "b"), evil, context=evil)
    response = Response(evil, 0, evil, evil, evil, False, "stop", -1.0, 3, "m", "greedy")
    data = ReportData(
        evil,
        [
            dataclasses.replace(arm(evil, 0.6), about=evil, curve=evil, samples=1, model=evil, seed=1),
            dataclasses.replace(arm(evil + "2", 0.7), about=evil, curve=evil, samples=5, model=evil),
        ],
        sets=[EvalSet("w.test", evil, evil)],
        facts={evil: evil},
        ledgers={evil: {"bins": {"kept": 1, "wrong": 2}}},
        curves={evil: [(1, 2.0, None), (2, 1.0, 0.5)]},
        examples=[BrowserEntry([question] * 2, [evil] * 2, {evil: [response] * 2}, {evil: [{evil: 1}] * 2})],
        config=evil,
    )
    page = render(data)
    parsed = Page(page)
    assert "script" not in parsed.tags
    assert "{{ 7 * 7 }}" in parsed.words


def test_names_in_plots_are_literal():
    rows = tables.arm_rows(ReportData("r", [arm("$x$ & 木", 0.6)]))
    svg = plots.accuracy_panel(rows, EvalSet("w.test"))
    assert "$x$ &amp; 木</text>" in svg
    runs = {str(i): [(1, 2.0, 0.1), (2, 1.0 + i, 0.5)] for i in range(5)}
    assert set(re.findall(r"#[0-9a-f]{6}", plots.training_panel("five runs", runs))) <= {"#ffffff"}


def test_equal_data_give_equal_bytes_in_one_file(tmp_path, data, page):
    path = epath.Path(tmp_path) / "report" / "index.html"
    write_report(path, data)
    assert path.read_text() == page
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]


def test_seeds_and_models_have_separate_rows_and_paragraphs():
    data = invented(seeds=2, models=("opt-tiny", "t5-tiny"), per_set=16)
    words = plain(Page(render(data)).words)
    assert "Every arm was trained 2 times." in words
    assert "t5-tiny: " in words
    assert "seeds 0, 1" in words
    assert "t test with the same variance" in words
    assert [(r.model, r.name, r.seeds) for r in tables.arm_rows(data)][6:8] == [
        ("t5-tiny", "label-only", 2),
        ("t5-tiny", "one greedy chain", 2),
    ]
    assert tables.arm_rows(data)[0].role == "teacher"


# ---- the headline


@pytest.mark.parametrize(
    ("method", "baseline", "headline", "significant"),
    [
        (0.80, 0.50, "Training on 30 rationales per question beats label-only training: 80.0 % ", True),
        (0.40, 0.70, "Training on 30 rationales per question does worse than label-only", True),
        (0.60, 0.58, "No significant difference between training on 30 rationales per question", False),
    ],
)
def test_headline_states_the_outcome_of_the_test(method, baseline, headline, significant):
    arms = [arm("SCoTD", method, samples=30), arm("labels", baseline, samples=0)]
    findings = findings_of(ReportData("r", arms))
    assert plain(findings.headline).startswith(headline)
    assert f"{tables.points(method - baseline)} points (interval" in plain(findings.paragraphs[0])
    judgement = "which is significant" if significant else "which is not significant"
    assert judgement in findings.paragraphs[0]
    assert "There is one training run per arm" in findings.paragraphs[0]


def test_arms_without_common_questions_are_not_tested():
    method, labels = arm("SCoTD", 0.9, samples=30), arm("labels", 0.5, samples=0)
    others = {"w.test": {f"x{id_}": value for id_, value in labels.outcomes["w.test"].items()}}
    data = ReportData("r", [method, dataclasses.replace(labels, outcomes=others)], comparisons=[("SCoTD", "labels")])
    findings = findings_of(data)
    assert "the difference was not tested" in findings.headline
    assert "significant" not in findings.paragraphs[0]
    assert "share no questions and seeds: SCoTD vs labels." in plain(Page(render(data)).words)


def test_arms_with_some_common_questions_are_compared_on_these():
    method, labels = arm("SCoTD", 0.9, n=60, samples=30), arm("labels", 0.5, samples=0)
    [test] = compared(ReportData("r", [method, labels]))
    assert test.questions == 60
    assert test.difference.value == pytest.approx(54 / 60 - 50 / 60)


def test_summary_mentions_the_curve_the_teacher_and_accuracies_below_chance():
    arms = [
        arm("label-only", 0.3, samples=0),
        arm("N = 5", 0.4, samples=5, curve="c"),
        arm("N = 30", 0.8, samples=30, curve="c"),
        arm("N = 1", 0.5, samples=1, curve="c"),
        arm("greedy", 0.6, samples=1),
        arm("big one", 0.9, role="teacher"),
    ]
    findings = plain(findings_of(ReportData("r", arms)).paragraphs[0])
    rises = (
        "Accuracy rises with more samples (+15.0 points per step, p < 0.001): 50.0, 40.0 and 80.0 % with 1, 5 and 30"
    )
    assert rises in findings
    assert "Its lead on test is +20.0 points over “greedy”." in findings
    assert "“label-only” is below chance on test (30.0 %)" in findings
    assert "“big one” answers 90.0 % of the test questions correctly" in findings


def test_sentences_list_four_arms_and_count_the_others():
    others = [arm(f"way {i}", 0.4 + i / 50) for i in range(7)]
    arms = [arm("label-only", 0.3, samples=0), arm("N = 30", 0.8, samples=30), *others]
    findings = plain(findings_of(ReportData("r", arms)).paragraphs[0])
    assert re.search(
        r"Its lead on test is (\S+ points over “way \d”( \(not significant\))?(, | and )?){4}; 3 more are in the",
        findings,
    )


def test_format_failures_are_mentioned_and_not_attributed_to_a_cue():
    def with_failures(run: RunResult, share: float) -> RunResult:
        return dataclasses.replace(run, results={"w.test": {**run.results["w.test"], "format_failure_rate": share}})

    method, labels = arm("SCoTD", 0.8, samples=30), arm("labels", 0.3, samples=0)
    broken = plain(
        findings_of(ReportData("r", [with_failures(method, 0.02), with_failures(labels, 0.45)])).paragraphs[0]
    )
    assert "Answers on test that could not be parsed count as wrong: “labels” 45.0 %." in broken
    assert "surface cue" not in broken
    misled = plain(findings_of(ReportData("r", [method, with_failures(labels, 0.04)])).paragraphs[0])
    assert "could not be parsed" not in misled
    assert "surface cue" in misled


def test_runs_with_high_variance_are_not_significant():
    accuracies = [0.9, 0.5, 0.7]
    arms = [arm("SCoTD", a, seed=s, samples=30) for s, a in enumerate(accuracies)]
    arms += [arm("labels", 0.5, seed=s, samples=0) for s in range(3)]
    (row,) = compared(ReportData("r", arms))
    assert row.p > 0.05  # both test and interval include the variance between runs
    assert row.difference.low < 0 < row.difference.high
    assert row.significant == ""


# ---- tables


def test_rows_average_runs_and_mark_the_best_student():
    arms = [arm("a", 0.6, seed=0), arm("a", 0.8, seed=1), arm("b", 0.65), arm("t", 0.99, role="teacher")]
    rows = tables.arm_rows(ReportData("r", arms))
    cells = {row.name: row.cells["w.test"] for row in rows}
    assert cells["a"].estimate.value == pytest.approx(0.7)
    assert cells["a"].run_accuracies == (0.6, 0.8)
    assert (cells["a"].best, cells["b"].best, cells["t"].best) == (True, False, False)
    assert cells["b"].against_chance == "above"
    assert cells["a"].against_chance == ""  # two distant runs have a wide interval


def test_rows_before_distillation_come_first_and_are_compared():
    arms = [arm("labels", 0.5, seed=s, samples=0) for s in (0, 1)] + [
        arm("SCoTD", 0.8, seed=s, samples=30) for s in (0, 1)
    ]
    arms += [arm("untrained, zero-shot", 0.03, role="untrained"), arm("teacher, few-shot", 0.9, role="teacher")]
    data = ReportData("r", arms)
    rows = tables.arm_rows(data)
    assert [row.role for row in rows] == ["teacher", "untrained", "student", "student"]
    assert not rows[1].cells["w.test"].best
    before, labels, labels_before = compared(data)
    assert (before.other, before.seeds, labels.other) == ("untrained, zero-shot", 2, "labels")
    assert (labels_before.arm, labels_before.other) == ("labels", "untrained, zero-shot")
    assert before.difference.value == pytest.approx(0.77)
    findings = plain(findings_of(data).paragraphs[0])
    assert findings.startswith(
        "Before training, the model answers on test: “untrained, zero-shot” 3.0 % (+77.0 points, p"
    )
    assert "“teacher, few-shot” answers 90.0 % of the test questions correctly" in findings


def test_reference_models_alone_are_summarized():
    data = ReportData("r", [arm("teacher, few-shot", 0.9, role="teacher"), arm("untrained", 0.2, role="untrained")])
    findings = findings_of(data)
    assert plain(findings.headline) == "“teacher, few-shot” answers 90.0 % of the test questions."
    assert "No trained student was evaluated." in findings.paragraphs[0]
    assert "teacher, few-shot" in Page(render(data)).words


def test_readings_have_rows_and_comparisons_of_their_own():
    # Answers are read in two ways: from the text, and by the likelihood of the choices.
    text = [arm("SCoTD", 0.3, samples=30), arm("labels", 0.5, samples=0)]
    choices = [arm("SCoTD", 0.7, samples=30, read="choices"), arm("labels", 0.6, samples=0, read="choices")]
    data = ReportData("r", [*choices, *text])
    rows = tables.arm_rows(data)
    assert [(row.name, row.read) for row in rows] == [
        ("SCoTD", "text"), ("labels", "text"), ("SCoTD", "choices"), ("labels", "choices"),
    ]  # fmt: skip
    assert [row.cells["w.test"].best for row in rows] == [False, True, True, False]
    tests = compared(data)
    assert [(test.read, round(test.difference.value, 2)) for test in tests] == [("text", -0.2), ("choices", 0.1)]
    findings = findings_of(data)
    assert plain(findings.headline).startswith("Training on 30 rationales per question does worse than label-only")
    assert (
        "accuracy is on test: “SCoTD” 70.0 % (30.0 from the text) and “labels” 60.0 % (50.0 from the text)."
        in plain(findings.paragraphs[0])
    )
    words = plain(Page(render(data)).words)
    assert words.count("By likelihood of the choices") == 3  # the summary, the table and its term
    only = findings_of(ReportData("r", choices))
    assert plain(only.headline).startswith("Training on 30 rationales per question")


def test_comparisons_pair_equal_seeds_only():
    arms = [arm("m", 0.8, seed=s, samples=5) for s in (0, 1, 2)] + [arm("o", 0.5, seed=s) for s in (1, 2, 3)]
    (row,) = compared(ReportData("r", arms))
    assert row.seeds == 2


def test_two_runs_of_an_arm_with_equal_seed_are_refused():
    runs = [arm("x", 0.8), dataclasses.replace(arm("x", 0.5), student="another")]
    with pytest.raises(InputError, match="arm 'x': 'x-0' and 'another' both have seed 0 on w.test"):
        tables.arm_rows(ReportData("r", runs))
    elsewhere = dataclasses.replace(arm("x", 0.5, label="w.contrast"), student="another")
    assert len(tables.arm_rows(ReportData("r", [runs[0], elsewhere]))) == 1


def test_default_pairs_include_every_arm_and_model():
    arms = [
        arm("labels", 0.5, samples=0, model="small"),
        arm("two stages", 0.6, model="small"),
        arm("N = 30", 0.8, samples=30, model="small"),
        arm("before", 0.1, role="untrained", model="small"),
        arm("N = 30", 0.9, samples=30, model="large"),
        arm("teacher", 0.9, role="teacher"),
    ]
    tests = compared(ReportData("r", arms))
    assert [(t.arm, t.other) for t in tests if t.model == t.other_model == "small"] == [
        ("N = 30", "before"),
        ("N = 30", "labels"),
        ("N = 30", "two stages"),
        ("two stages", "labels"),
        ("labels", "before"),
    ]
    [between] = [t for t in tests if t.model != t.other_model]
    assert (between.arm, between.other, between.model, between.other_model) == ("N = 30", "N = 30", "small", "large")
    alone = compared(ReportData("r", [arm("x", 0.5), arm("y", 0.6), arm("z", 0.7)]))
    assert [(t.arm, t.other) for t in alone] == [("x", "y"), ("x", "z"), ("y", "z")]


def test_named_comparisons_replace_the_default_pairs_and_are_one_family():
    arms = [arm("x", 0.8, samples=0), arm("y", 0.7, samples=30), arm("z", 0.4, samples=1)]
    arms += [arm("big", 0.9, role="teacher", seed=7)]
    data = ReportData("r", arms, comparisons=[("x", "y"), ("x", "big")])
    tests = compared(data)
    assert [(t.arm, t.other) for t in tests] == [("x", "y"), ("x", "big")]
    alone = [compared(dataclasses.replace(data, comparisons=[pair]))[0].p for pair in data.comparisons]
    assert [t.p for t in tests] == pytest.approx([2 * min(alone)] * 2)  # Holm over both; the two have equal p
    assert plain(findings_of(data).headline).startswith("Label-only training beats training on 30 rationales")
    models = [arm("x", 0.8, model="small"), arm("x", 0.5, model="large")]
    [between] = compared(ReportData("r", models, comparisons=[("x", "x")]))
    assert (between.model, between.other_model) == ("small", "large")


def test_contrast_consistency_is_compared_between_arms():
    questions = [
        Question(f"q{i:03}", "t", "test", "?", ("a", "b"), "a", group=f"{i // 2}") for i in range(100)
    ]  # arms are right on the first questions
    data = ReportData(
        "r",
        [arm("m", 0.8, samples=30), arm("o", 0.5, samples=0)],
        questions={q.id: q for q in questions},
    )
    by_set = {test.set_label: test for test in compared(data)}
    assert list(by_set) == ["w.test", "contrast consistency"]
    assert by_set["contrast consistency"].questions == 50
    assert by_set["contrast consistency"].difference.value == pytest.approx(0.3)
    # Within a set, the two questions of a pair count as one.
    assert by_set["w.test"].difference.low < compared(dataclasses.replace(data, questions={}))[0].difference.low
    assert "contrast consistency" in plain(Page(render(data)).words)


def test_votes_are_compared_with_single_responses():
    single, voted = arm("m", 0.5, samples=30), arm("m", 0.7)
    votes = {"w.test": {"k": 3, "expected": {"3": 0.7}, "vote_entropy": 0.5, "invalid_rate": 0.0}}
    run = dataclasses.replace(single, votes=votes, vote_outcomes=voted.outcomes)
    data = ReportData("r", [run])
    [test] = comparisons.compare_votes(data, tables.arm_rows(data))
    assert test.difference.value == pytest.approx(0.2)
    assert test.significant == "better"
    assert comparisons.compare_votes(data, tables.arm_rows(ReportData("r", [single]))) == []
    words = plain(Page(render(data)).words)
    assert "+20.0" in words


def test_trend_with_runs_that_disagree_is_not_significant():
    accuracies = {1: (0.2, 0.6, 0.5), 5: (0.6, 0.5, 0.7)}
    arms = [
        arm(f"N = {n}", accuracy, seed=seed, samples=n, curve="c")
        for n, of_runs in accuracies.items()
        for seed, accuracy in enumerate(of_runs)
    ]
    data = ReportData("r", arms)
    [trend] = comparisons.find_trends(data, tables.arm_rows(data))
    assert trend.difference.value == pytest.approx(1 / 6)
    assert (trend.samples, trend.seeds, trend.significant) == ((1, 5), 3, "")
    assert "shows no significant trend" in plain(findings_of(data).paragraphs[0])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.75, "75.0"), (None, "\N{EN DASH}"), (0.0, "0.0"), (1.0, "100.0"), (0.0001, "<0.1"), (0.9999, ">99.9")],
)
def test_percent_rounds_to_0_and_100_only_if_exact(value, text):
    assert tables.percent(value) == text


def test_formatted_numbers():
    assert tables.span(Estimate(0.5, 0.418, 0.582)) == "41\N{EN DASH}59"
    assert tables.span(Estimate(0.5, 0.41, 0.59)) == "41\N{EN DASH}59"
    assert tables.span(Estimate(1.0, 0.9012, 1.0), 1) == "90.1\N{EN DASH}100.0"
    assert [tables.points(v) for v in (0.203, -0.05, 0.0001)] == ["+20.3", f"{tables.MINUS}5.0", "0.0"]
    assert [tables.p_text(p) for p in (0.0001, 0.0123, 0.5)] == ["< 0.001", "= 0.012", "= 0.50"]


def test_ledger_counts_keep_the_order_of_the_ledger():
    counts = tables.ledger_counts({"total": 3, "bins": {"kept": 1, "new": 2}})
    assert list(counts.items()) == [("kept", 1), ("new", 2)]


# ---- plots, marked words


def test_labels_are_spread_without_changing_order():
    heights = [50.0, 51.0, 20.0, 99.0, 98.0, 0.0]
    moved = plots.spread(heights, 8.0)
    assert np.argsort(moved).tolist() == np.argsort(heights).tolist()
    assert min(np.diff(sorted(moved))) >= 8.0 - 1e-9
    assert min(moved) >= 0
    assert max(moved) <= 100
    assert moved[2] == 20.0  # has room
    assert moved[0] == pytest.approx(46.5)  # both labels move by the same distance
    assert plots.spread([], 8.0) == []


def test_thinned_curves_keep_their_last_point():
    points = [(i, float(i)) for i in range(1001)]
    thinned = plots.thin(points)
    assert len(thinned) <= plots.MAX_POINTS + 1
    assert (thinned[0], thinned[-1]) == (points[0], points[-1])
    assert plots.thin(points[:1]) == points[:1]
    assert plots.thin([]) == []


def test_changed_words_are_marked():
    pieces = changed_words("take the red lift, then stop", ["take the old lift, then stop"])
    assert [text for text, changed in pieces if changed] == ["red"]
    assert "".join(text for text, _ in pieces) == "take the red lift, then stop"
    assert changed_words("alone", []) == [("alone", False)]


# ---- cards


def front_matter(card: str) -> dict:
    _, matter, _ = card.split("---\n", 2)
    return yaml.safe_load(matter)


def test_model_card_has_usage_results_and_training(data):
    results = data.runs[4].results
    card = cards.model_card(
        "n30: \"best\" 'yet'",
        kind="opt",
        about="A student.",
        prompt='Q: "why"?\nA:',
        results=results,
        facts={"Steps": "1,500"},
        stops=["\n\n"],
        base_model="facebook/opt-125m",
    )
    front = front_matter(card)
    assert front["model-index"][0]["name"] == "n30: \"best\" 'yet'"
    assert front["base_model"] == "facebook/opt-125m"
    assert "license" not in front
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == pytest.approx(
        results["world.test"]["accuracy"], abs=1e-6
    )
    assert "AutoModelForCausalLM" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    compile(code[1], "card", "exec")
    score = results["world.test"]
    cell = f"{tables.percent(score['accuracy'])} ({tables.span(Estimate(score['accuracy'], *score['interval']))})"
    assert f"| world.test | {cell} | 50.0 |" in card
    assert "- Steps: 1,500" in card
    unevaluated = cards.model_card("x", kind="t5", about="", prompt="", results={}, facts={})
    assert "not evaluated" in unevaluated
    assert "AutoModelForSeq2SeqLM" in unevaluated
