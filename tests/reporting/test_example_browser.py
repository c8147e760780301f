"""The example browser: entries of every combination of outcomes, and filters that work without a script."""

import re

import pytest

from scotd_jax.records import Question, Response
from scotd_jax.reporting.data import BrowserEntry, EvalSet, ReportData
from scotd_jax.reporting.example_browser import browser_content
from scotd_jax.reporting.examples import pick_entries
from scotd_jax.reporting.html_page import render
from tests.helpers.chromium import BINARY, Chromium
from tests.helpers.html_page import Page


def question(id_: str, group: str | None = None) -> Question:
    return Question(id_, "t", "s", f"text of {id_}", ("a", "b"), "a", group=group)


def answers(questions: list[Question], wrong: set[str]) -> dict[str, Response]:
    """Returns responses that are wrong for some questions, by question id."""
    return {
        q.id: Response(q.id, 0, "a", f"reason {q.id}", "a", q.id not in wrong, "stop", -1.0, 1, "m", "s")
        for q in questions
    }


TEST = [question(f"q{i}", f"g{i}" if i < 9 else None) for i in range(100)]
EDITS = [question(f"e{i}", f"g{i}") for i in range(9)]
EVERY = [*TEST, *EDITS]
SETS = {"t.test": TEST, "t.contrast": EDITS}
ARMS = {"one": answers(EVERY, {"q20", "e3"}), "two": answers(EVERY, {f"q{i}" for i in range(50)})}


def test_every_combination_of_outcomes_comes_in_turn():
    entries = pick_entries(SETS, ARMS, {}, count=6)
    kinds = {(len(entry.questions), entry.outcome("one"), entry.outcome("two")) for entry in entries}
    assert kinds == {
        (1, "right", "right"),
        (1, "right", "wrong"),
        (1, "wrong", "wrong"),
        (2, "right", "flipped"),
        (2, "flipped", "flipped"),
    }
    assert [q.id for entry in pick_entries(SETS, ARMS, {}, 100) for q in entry.questions].count("e3") == 1
    reversed_sets = {label: questions[::-1] for label, questions in SETS.items()}
    ids = {entry.questions[0].group for entry in pick_entries(reversed_sets, ARMS, {}, 100)}
    assert len(pick_entries(SETS, ARMS, {}, 1000)) == 100
    assert {f"g{i}" for i in range(9)} < ids


def test_entries_are_not_the_first_questions_and_do_not_depend_on_their_order():
    chosen = [entry.questions[0].id for entry in pick_entries({"t.test": TEST[9:]}, ARMS, {}, 12)]
    assert chosen == [entry.questions[0].id for entry in pick_entries({"t.test": TEST[:8:-1]}, ARMS, {}, 12)]
    assert chosen != [q.id for q in TEST[9:21]]


def test_arms_without_a_response_to_a_member_are_left_out():
    partial = {id_: row for id_, row in ARMS["two"].items() if id_ != "e3"}
    entries = pick_entries(SETS, {"one": ARMS["one"], "two": partial}, {"one": {"q3": {"a": 2}}}, 1000)
    [entry] = [entry for entry in entries if entry.questions[0].id == "q3"]
    assert list(entry.answers) == ["one"]
    assert entry.outcome("two") == "none"
    assert entry.votes == {"one": [{"a": 2}, {}]}
    assert pick_entries({"t.new": [question("new")]}, ARMS, {}) == []


ENTRIES = [
    BrowserEntry(
        [TEST[20]], ["t.test"], {arm: [rows["q20"]] for arm, rows in ARMS.items()}, {"one": [{"b": 7, "a": 3}]}
    ),
    BrowserEntry([TEST[30]], ["t.test"], {arm: [rows["q30"]] for arm, rows in ARMS.items()}),
    BrowserEntry(
        [TEST[0], EDITS[0]],
        ["t.test", "t.contrast"],
        {arm: [rows["q0"], rows["e0"]] for arm, rows in ARMS.items()},
    ),
]


def page() -> str:
    return render(ReportData("browser", [], sets=[EvalSet("t.test", "test set")], examples=ENTRIES))


def test_filters_are_the_outcomes_that_occur():
    content = browser_content(ENTRIES, {"t.test": "test set"})
    assert content["filters"] == [
        ("set", [("s0", "test set"), ("s1", "t.contrast")]),
        ("one", [("a0-right", "right"), ("a0-wrong", "wrong")]),
        ("two", [("a1-wrong", "wrong"), ("a1-flipped", "partly right")]),
    ]
    assert [entry["classes"] for entry in content["entries"]] == [
        "s0 a0-wrong a1-wrong",
        "s0 a0-right a1-wrong",
        "s0 s1 a0-right a1-flipped",
    ]
    parsed = Page(page())
    assert "script" not in parsed.tags
    assert "votes: b 7, a 3" in parsed.words
    rules = set(re.findall(r"#only-([\w-]+):checked", page()))
    assert {f"only-{value}" for value in rules} >= {id_ for id_ in parsed.ids if id_.startswith("only-")}


@pytest.mark.slow
@pytest.mark.skipif(BINARY is None, reason="needs Chromium or Chrome in the PATH")
def test_filters_in_a_browser(tmp_path):
    (tmp_path / "index.html").write_text(page())
    visible = "[...document.querySelectorAll('.entry')].map(e => +(e.getBoundingClientRect().height > 0)).join('')"
    with Chromium(tmp_path) as browser:
        browser.open(tmp_path / "index.html", 390, 800, dark=True)
        assert browser.js(visible) == "111"
        for filters, shown in {
            ("a0-right",): "011",
            ("a1-wrong",): "010",
            ("a0-wrong",): "100",
            ("s1",): "000",
        }.items():
            for value in filters:
                browser.js(f"document.getElementById('only-{value}').click()")
            assert browser.js(visible) == shown
        browser.js("document.querySelector('.filters button[type=reset]').click()")
        assert browser.js(visible) == "111"
        browser.js("document.getElementById('only-a0-right').focus()")
        browser.press("ArrowRight", "Enter")
        assert browser.js(visible) == "100"
        assert browser.js("document.documentElement.scrollWidth") <= 390
        assert browser.errors == []
        assert {url.partition(":")[0] for url in browser.requests} == {"file"}
