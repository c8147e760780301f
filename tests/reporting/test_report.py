"""The report and the cards: what they claim follows from the data, and nothing in them can break out."""

import dataclasses
import re

import numpy as np
import pytest
import yaml
from etils import epath

from scotd_jax.evaluation.statistics import Estimate
from scotd_jax.records import Question, Response
from scotd_jax.reporting import cards, examples, plots, tables
from scotd_jax.reporting.data import ContrastPair, EvalSet, Example, ReportData, RunResult
from scotd_jax.reporting.headline import Findings, summarize_findings
from scotd_jax.reporting.html_page import changed_words, render, write_report
from tests.helpers.html_page import Page
from tests.helpers.invented_report import invented


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("\N{NO-BREAK SPACE}", " "))


def told_of(data: ReportData) -> Findings:
    rows = tables.rows(data)
    return summarize_findings(data, rows, tables.comparisons(data, rows))


@pytest.fixture(scope="module")
def data() -> ReportData:
    return invented()


@pytest.fixture(scope="module")
def page(data) -> str:
    return render(data)


def arm(name, accuracy, *, seed=0, n=100, label="w.test", **fields) -> RunResult:
    """An arm that is right on the first `accuracy` of n questions."""
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


def test_plots_follow_the_page(page):
    svgs = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(svgs) == 4 + 4 + 6  # sets, sets again, arms with curves
    for svg in svgs:
        assert "#0102" not in svg, "a placeholder colour was left"
        assert not re.search(r"<svg[^>]* (width|height)=", svg)
        assert "var(--sans)" in svg
        assert "DejaVu" not in svg
        assert 'role="img"' in svg
    colours = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", "".join(svgs)))
    assert colours <= {"#ffffff"}, f"colours that do not follow light and dark: {colours}"


def test_every_part_of_the_data_is_shown(page, data):
    words = plain(Page(page).words)
    row = tables.rows(data)[-2]
    cell = row.cells["world.test"]
    assert row.name == "N = 30"
    for text in [
        tables.percent(cell.estimate.value),
        tables.span(cell.estimate),
        "128 questions",
        "seed 0",
        "expected, without any model50.050.050.050.0",
        "opt-tiny, 0.34M parameters, trained here",
        "447 of 450 questions keep at least one",
        "kept 9,650 (74.2 %)",
        "not selected 10,750",
        data.examples[0].question.text,
        data.pairs[0].questions[1].answer,
        '"name": "invented"',
        "exact McNemar test, Holm-corrected for all 16 comparisons",
        told_of(data).paragraphs[0].replace("\N{NO-BREAK SPACE}", " "),
    ]:
        assert text in words, text


def test_where_the_time_went(data):
    spent = {"goodput": 0.75, "seconds_updates": 300.0, "seconds_input": 0.0, "seconds_compile": 95.0}
    costs = {"a": {**spent, "rationales_per_second": 12.345}, "b": {**spent, "rationales_per_second": 7.0}}
    page = Page(render(ReportData("r", [], costs=costs)))
    assert "training" in page.ids
    words = plain(page.words)
    assert "studentupdatescompilegoodput, % rationalesper second of updates" in words  # no input anywhere, MFU unknown
    assert "a5 min 00 s1 min 35 s75.012.35" in words
    costs["b"]["mfu"] = 0.551
    words = plain(Page(render(ReportData("r", [], costs=costs))).words)
    assert "per second of updatesMFU, %" in words
    assert "75.012.35\N{EN DASH}" in words
    assert "75.0755.1" in words


def test_parts_without_data_leave_no_section():
    bare = ReportData("bare", [arm("only", 0.6)])
    parsed = Page(render(bare))
    assert [i for i in parsed.ids if i.isalpha()] == ["accuracy", "terms"]
    assert "“only” answers 60.0 % of the test questions." in plain(parsed.words)
    nothing = plain(Page(render(ReportData("nothing", []))).words)
    assert "No student was evaluated in this run." in nothing


def test_what_models_and_files_say_is_escaped():
    evil = "<script>alert(1)</script>\"'><b onmouseover=x> {{ 7 * 7 }} & $x$ 木"
    question = Question(evil, "t", "s", evil, ("a", "b"), evil, context=evil)
    said = Response(evil, 0, evil, evil, evil, False, "stop", -1.0, 3, "m", "greedy")
    data = ReportData(
        evil,
        [dataclasses.replace(arm(evil, 0.6), about=evil, curve=evil, samples=k, model=evil, seed=k) for k in (1,)]
        + [dataclasses.replace(arm(evil + "2", 0.7), about=evil, curve=evil, samples=5, model=evil)],
        sets=[EvalSet("w.test", evil, evil)],
        facts={evil: evil},
        ledgers={evil: {"bins": {"kept": 1, "wrong": 2}}},
        curves={evil: [(1, 2.0, None), (2, 1.0, 0.5)]},
        examples=[Example(question, said, evil, "w.test")],
        pairs=[ContrastPair([question, question], {evil: [said, said]})],
        config=evil,
    )
    page = render(data)
    parsed = Page(page)
    assert "script" not in parsed.tags
    assert "{{ 7 * 7 }}" in parsed.words


def test_names_in_plots_are_taken_literally():
    rows = tables.rows(ReportData("r", [arm("$x$ & 木", 0.6)]))
    svg = plots.accuracy_panel(rows, EvalSet("w.test"))
    assert "$x$ &amp; 木</text>" in svg
    runs = {str(i): [(1, 2.0, 0.1), (2, 1.0 + i, 0.5)] for i in range(5)}
    assert set(re.findall(r"#[0-9a-f]{6}", plots.training_panel("five runs", runs))) <= {"#ffffff"}


def test_equal_data_give_equal_bytes_written_at_once(tmp_path, data, page):
    path = epath.Path(tmp_path) / "report" / "index.html"
    write_report(path, data)
    assert path.read_text() == page
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]


def test_several_seeds_and_models_are_told_apart():
    data = invented(seeds=2, models=("opt-tiny", "t5-tiny"), per_set=16)
    words = plain(Page(render(data)).words)
    assert "Every arm was trained 2 times." in words
    assert "t5-tiny: " in words
    assert "seeds 0, 1" in words
    assert "sign-flip test over questions" in words
    assert [(r.model, r.name, r.seeds) for r in tables.rows(data)][5:7] == [
        ("t5-tiny", "label-only", 2),
        ("t5-tiny", "one greedy chain", 2),
    ]
    assert tables.rows(data)[-1].role == "teacher"


# ---- the verdict


@pytest.mark.parametrize(
    ("method", "baseline", "headline", "judged"),
    [
        (0.80, 0.50, "Training on 30 chains of thought per question beats training on answers alone: 80.0 % ", "more"),
        (0.40, 0.70, "Training on 30 chains of thought per question does worse than training on answers", "more"),
        (0.60, 0.58, "No difference could be shown between training on 30 chains of thought per question", "which"),
    ],
)
def test_verdict_says_what_the_numbers_say(method, baseline, headline, judged):
    arms = [arm("SCoTD", method, samples=30), arm("labels", baseline, samples=0)]
    told = told_of(ReportData("r", arms))
    assert plain(told.headline).startswith(headline)
    assert f"{tables.points(method - baseline)} points (interval" in plain(told.paragraphs[0])
    assert {"more": "more than chance explains", "which": "which chance alone may explain"}[judged] in told.paragraphs[
        0
    ]
    assert "There is one training run per arm" in told.paragraphs[0]


def test_verdict_without_outcomes_does_not_pretend_to_a_test():
    arms = [arm("SCoTD", 0.9, samples=30), arm("labels", 0.5, samples=0)]
    arms = [dataclasses.replace(a, outcomes={}) for a in arms]
    told = told_of(ReportData("r", arms))
    assert "the difference was not tested" in told.headline
    assert "chance explains" not in told.paragraphs[0]


def test_verdict_tells_the_curve_the_teacher_and_a_followed_cue():
    arms = [
        arm("label-only", 0.3, samples=0),
        arm("N = 5", 0.4, samples=5, curve="c"),
        arm("N = 30", 0.8, samples=30, curve="c"),
        arm("N = 1", 0.5, samples=1, curve="c"),
        arm("greedy", 0.6, samples=1),
        arm("big one", 0.9, role="teacher"),
    ]
    told = plain(told_of(ReportData("r", arms)).paragraphs[0])
    assert "Accuracy rises with more samples, but not at every step: 50.0, 40.0 and 80.0 % with 1, 5 and 30" in told
    assert "Its lead on test is +20.0 points over “greedy”." in told
    assert "“label-only” falls below guessing on test (30.0 %)" in told
    assert "“big one” is right on 90.0 % of the test questions" in told


def test_a_sentence_lists_four_arms_and_counts_the_others():
    others = [arm(f"way {i}", 0.4 + i / 50) for i in range(7)]
    arms = [arm("label-only", 0.3, samples=0), arm("N = 30", 0.8, samples=30), *others]
    told = plain(told_of(ReportData("r", arms)).paragraphs[0])
    assert re.search(
        r"Its lead on test is (\S+ points over “way \d”( \(not shown\))?(, | and )?){4}; 3 more are in the", told
    )


def test_unreadable_answers_are_told_and_not_taken_for_a_cue():
    def unreadable(made: RunResult, share: float) -> RunResult:
        return dataclasses.replace(made, results={"w.test": {**made.results["w.test"], "format_failure_rate": share}})

    method, labels = arm("SCoTD", 0.8, samples=30), arm("labels", 0.3, samples=0)
    broken = plain(told_of(ReportData("r", [unreadable(method, 0.02), unreadable(labels, 0.45)])).paragraphs[0])
    assert "Answers on test that could not be read count as wrong: “labels” 45.0 %." in broken
    assert "surface cue" not in broken
    misled = plain(told_of(ReportData("r", [method, unreadable(labels, 0.04)])).paragraphs[0])
    assert "could not be read" not in misled
    assert "surface cue" in misled


def test_a_few_runs_that_scatter_do_not_make_a_finding():
    wild = [0.9, 0.5, 0.7]
    arms = [arm("SCoTD", a, seed=s, samples=30) for s, a in enumerate(wild)]
    arms += [arm("labels", 0.5, seed=s, samples=0) for s in range(3)]
    (row,) = tables.comparisons(ReportData("r", arms), tables.rows(ReportData("r", arms)))
    assert row.p < 0.001  # over the questions, for these runs
    assert row.difference.low < 0 < row.difference.high  # but a new run may well lie elsewhere
    assert row.shown == ""


# ---- tables


def test_rows_average_runs_and_mark_the_best_student():
    arms = [arm("a", 0.6, seed=0), arm("a", 0.8, seed=1), arm("b", 0.65), arm("t", 0.99, role="teacher")]
    made = tables.rows(ReportData("r", arms))
    cells = {r.name: r.cells["w.test"] for r in made}
    assert cells["a"].estimate.value == pytest.approx(0.7)
    assert cells["a"].run_accuracies == (0.6, 0.8)
    assert (cells["a"].best, cells["b"].best, cells["t"].best) == (True, False, False)
    assert cells["b"].against_chance == "above"
    assert cells["a"].against_chance == ""  # two runs that far apart say little


def test_comparisons_pair_equal_seeds_only():
    arms = [arm("m", 0.8, seed=s, samples=5) for s in (0, 1, 2)] + [arm("o", 0.5, seed=s) for s in (1, 2, 3)]
    data = ReportData("r", arms)
    (row,) = tables.comparisons(data, tables.rows(data))
    assert row.seeds == 2


def test_method_may_be_named():
    data = ReportData("r", [arm("x", 0.8, samples=0), arm("y", 0.5, samples=30)], method="x")
    (row,) = tables.comparisons(data, tables.rows(data))
    assert (row.method, row.other) == ("x", "y")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.75, "75.0"), (None, "\N{EN DASH}"), (0.0, "0.0"), (1.0, "100.0"), (0.0001, "<0.1"), (0.9999, ">99.9")],
)
def test_percent_never_rounds_to_certainty(value, text):
    assert tables.percent(value) == text


def test_formatted_numbers():
    assert tables.span(Estimate(0.5, 0.418, 0.582)) == "41\N{EN DASH}59"
    assert tables.span(Estimate(0.5, 0.41, 0.59)) == "41\N{EN DASH}59"
    assert tables.span(Estimate(1.0, 0.9012, 1.0), 1) == "90.1\N{EN DASH}100.0"
    assert [tables.points(v) for v in (0.203, -0.05, 0.0001)] == ["+20.3", f"{tables.MINUS}5.0", "0.0"]
    assert [tables.p_text(p) for p in (0.0001, 0.0123, 0.5)] == ["< 0.001", "= 0.012", "= 0.50"]


def test_ledger_counts_are_in_the_ledger_s_order():
    counts = tables.ledger_counts({"total": 3, "bins": {"kept": 1, "new": 2}})
    assert list(counts.items()) == [("kept", 1), ("new", 2)]


def test_markdown_table(data):
    lines = tables.markdown(data).splitlines()
    assert lines[0] == "| arm | test | contrast | unseen combinations | longer chains |"
    assert sum("**" in line for line in lines) >= 1
    assert {line.count("|") for line in lines} == {6}


# ---- plots, examples


def test_labels_are_spread_without_changing_order():
    heights = [50.0, 51.0, 20.0, 99.0, 98.0, 0.0]
    placed = plots.spread(heights, 8.0)
    assert np.argsort(placed).tolist() == np.argsort(heights).tolist()
    assert min(np.diff(sorted(placed))) >= 8.0 - 1e-9
    assert min(placed) >= 0
    assert max(placed) <= 100
    assert placed[2] == 20.0  # has room
    assert placed[0] == pytest.approx(46.5)  # the two in the middle share the way
    assert plots.spread([], 8.0) == []


def test_thinned_curves_keep_their_end():
    points = [(i, float(i)) for i in range(1001)]
    thinned = plots.thin(points)
    assert len(thinned) <= plots.MAX_POINTS + 1
    assert (thinned[0], thinned[-1]) == (points[0], points[-1])
    assert plots.thin(points[:1]) == points[:1]
    assert plots.thin([]) == []


def test_examples_are_drawn_by_name_half_right_half_wrong():
    questions = [Question(f"q{i}", "t", "s", "?", ("a", "b"), "a") for i in range(100)]
    said = [Response(f"q{i}", 0, "a", "r", "a", i % 10 > 0, "stop", -1.0, 1, "m", "s") for i in range(100)]
    drawn = examples.pick_examples(questions, said, "arm", count=12)
    assert [e.response.correct for e in drawn] == [True] * 6 + [False] * 6
    assert drawn == examples.pick_examples(questions, list(reversed(said)), "arm", count=12)
    few_wrong = examples.pick_examples(questions[:20], said[:20], "arm", count=12)
    assert [e.response.correct for e in few_wrong] == [True] * 10 + [False] * 2
    assert [e.question.id for e in drawn] != [f"q{i}" for i in range(12)]


def test_pairs_need_an_answer_of_every_arm():
    questions = [Question(f"q{i}{m}", "t", "s", m, ("a", "b"), "a", group=f"g{i}") for i in range(9) for m in "xy"]
    said = {q.id: Response(q.id, 0, "a", "r", "a", True, "stop", -1.0, 1, "m", "s") for q in questions}
    less = {k: v for k, v in said.items() if not k.startswith("q3")}
    pairs = examples.pick_pairs(questions, {"one": said, "two": less}, count=20)
    assert len(pairs) == 8
    assert all(q.group != "g3" for p in pairs for q in p.questions)
    assert [len(v) for v in pairs[0].answers.values()] == [2, 2]


def test_changed_words_are_marked_and_nothing_is_lost():
    pieces = changed_words("take the red lift, then stop", ["take the old lift, then stop"])
    assert [text for text, changed in pieces if changed] == ["red"]
    assert "".join(text for text, _ in pieces) == "take the red lift, then stop"
    assert changed_words("alone", []) == [("alone", False)]


# ---- cards


def front_matter(card: str) -> dict:
    _, matter, _ = card.split("---\n", 2)
    return yaml.safe_load(matter)


def test_model_card_states_use_results_and_origin(data):
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
    shown = f"{tables.percent(score['accuracy'])} ({tables.span(Estimate(score['accuracy'], *score['interval']))})"
    assert f"| world.test | {shown} | 50.0 |" in card
    assert "- Steps: 1,500" in card
    unevaluated = cards.model_card("x", kind="t5", about="", prompt="", results={}, facts={})
    assert "not evaluated" in unevaluated
    assert "AutoModelForSeq2SeqLM" in unevaluated
