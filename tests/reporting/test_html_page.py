"""The report's page: it has every part of the data and loads nothing, and all text is escaped."""

import dataclasses
import re

import pytest
from etils import epath

from scotd_jax.evaluation import scoring
from scotd_jax.records import Question, Response
from scotd_jax.reporting import plots, tables
from scotd_jax.reporting.changed_words import changed_words
from scotd_jax.reporting.data import BrowserEntry, EvalSet, ReportData, RunResult
from scotd_jax.reporting.html_page import render, write_report
from scotd_jax.reporting.metric_rows import calibration_rows, vote_rows
from tests.helpers.html_page import Page
from tests.helpers.invented_report import invented
from tests.helpers.report_arms import arm, findings_of, plain


@pytest.fixture(scope="module")
def data() -> ReportData:
    return invented()


@pytest.fixture(scope="module")
def page(data) -> str:
    return render(data)


@pytest.mark.slow
def test_page_is_well_formed_and_loads_nothing(page):
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids)), "ids of inline plots clash"
    assert not parsed.tags & {"script", "link", "img", "iframe", "object", "embed", "image"}
    assert {link for link in parsed.links if not link.startswith("#")} == set()
    assert {link[1:] for link in parsed.links} <= set(parsed.ids), "a link or a marker points nowhere"
    assert re.findall(r"@import|url\((?!#)|https?://(?!www\.w3\.org)", page) == []


def test_plots_use_the_fonts_and_colours_of_the_page(page):
    svgs = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    # Two plots for each of four sets, the calibration of votes on one, and the training curves of six arms.
    assert len(svgs) == 4 + 4 + 1 + 6
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

    run = next(run for run in data.runs if run.votes)
    votes = earlier(run.votes, "pass_at_k", "pass_at_k_intervals", "expected_intervals", "calibration", "rationales")
    results = earlier({"world.test": run.results["world.test"]}, "rationales")
    old = ReportData("r", [dataclasses.replace(run, results=results, votes=votes)])
    rows, sets = tables.arm_rows(old), tables.evaluated_sets(old)
    assert list(calibration_rows(rows, sets)) == []
    [line] = vote_rows(rows, sets, old, [])
    assert (line["passed"], [k for k, _ in line["expected"]]) == ([], ["1", "3", "5", "10"])


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
        "majority answerthe most frequent right option66.4(a)66.4(b)66.4(a)66.4(a)",
        "opt-tiny, 0.34M parameters, trained here",
        "447 of 450 questions have a kept response",
        "kept 9,650 (74.2 %)",
        "not selected 10,750",
        data.examples[0].questions[0].text,
        next(row.rationale for entry in data.examples for row in entry.answers["N = 30"] if row.rationale),
        "votes: harbour 6, mill 4",
        '"name": "invented"',
        "scotd-jax --config=invented --workdir=runs/invented",
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


@pytest.mark.slow
def test_equal_data_give_equal_bytes(tmp_path, data, page):
    folder = epath.Path(tmp_path) / "report"
    write_report(folder, data)
    assert (folder / "index.html").read_text() == page
    assert sorted(p.name for p in folder.iterdir()) == ["index.html", "results.md", "results.tex"]


@pytest.mark.slow
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


def test_changed_words_are_marked():
    pieces = changed_words("take the red lift, then stop", ["take the old lift, then stop"])
    assert [text for text, changed in pieces if changed] == ["red"]
    assert "".join(text for text, _ in pieces) == "take the red lift, then stop"
    assert changed_words("alone", []) == [("alone", False)]


def collapsed_run(name: str, options: str, gold: str = "ab" * 20, **fields) -> RunResult:
    """A run that names these options on questions whose right options are `gold`."""
    questions = [Question(f"q{i}", "w", "test", "?", (f"x{i}", f"y{i}"), f"({right})") for i, right in enumerate(gold)]
    rows = [
        Response(q.id, 0, "", None, f"({named})", q.answer == f"({named})", "stop", -1.0, 1, "m", "greedy")
        for q, named in zip(questions, options, strict=True)
    ]
    results, outcomes = {"w.test": scoring.score(questions, rows)}, {"w.test": scoring.outcomes(questions, rows)}
    return RunResult(
        name, f"{name}-{fields.get('seed', 0)}", fields.pop("seed", 0), results, outcomes=outcomes, **fields
    )


def test_collapsed_student_is_named_in_summary_tables_and_plots():
    gold = "a" * 22 + "b" * 18
    runs = [
        collapsed_run("labels", "a" * 40, gold, samples=0),
        collapsed_run("labels", "a" * 20 + "b" * 20, gold, samples=0, seed=1),
        collapsed_run("SCoTD", gold, gold, samples=30),
        collapsed_run("SCoTD", gold, gold, samples=30, seed=1),
    ]
    data = ReportData("r", runs)
    words = plain(Page(render(data)).words)
    sentence = "Collapsed on test, so that the accuracy is that of one option: “labels” (names (a) in 100.0 % of its "
    assert f"{sentence}answers in 1 of 2 runs)." in plain(findings_of(data).paragraphs[0])
    assert "collapsed in 1 of 2" in words
    assert "majority answerthe most frequent right option55.0(a)" in words
    assert "right answers(a) 55.0 (b) 45.0 labels(a) 75.0 (b) 25.0collapsed SCoTD(a) 55.0 (b) 45.0" in words
    panel = plots.accuracy_panel(tables.arm_rows(data), EvalSet("w.test"), majority={"accuracy": 0.55})
    assert ">majority<" in panel


def test_results_of_earlier_versions_have_no_distribution_of_answers():
    run = collapsed_run("labels", "a" * 40, samples=0)
    results = {"w.test": {k: v for k, v in run.results["w.test"].items() if k != "answers"}}
    parsed = Page(render(ReportData("r", [dataclasses.replace(run, results=results)])))
    assert "answers" not in parsed.ids
    assert "majority answer" not in plain(parsed.words).split("Terms")[0]
