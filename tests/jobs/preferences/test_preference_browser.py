"""A preference page clicked through in headless Chromium, by keyboard alone."""

import json
from pathlib import Path

import pytest

from scotd_jax.jobs.preferences.choice_files import read_choice_file
from scotd_jax.jobs.preferences.pages import read_page
from scotd_jax.jobs.preferences.preference_commands import make_preference_page
from tests.helpers.chromium import BINARY, Chromium
from tests.helpers.preference_run import preference_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BINARY is None, reason="needs Chromium or Chrome in the PATH")]
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
VISIBLE = "[...document.querySelectorAll('.decide button')].every(b => b.getBoundingClientRect().bottom <= innerHeight)"


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> tuple[Path, Path]:
    """The folders of a page of evaluations, and of an editable page of sets of responses."""
    run = preference_run(tmp_path_factory.mktemp("run"))
    texts = [
        make_preference_page(run.config, str(run.workdir.root), arms, None, 100)
        for arms in (("long", "short"), ("x", "y:1"))
    ]
    first, second = (Path(text.splitlines()[0]).parent for text in texts)
    return first, second


@pytest.fixture
def browser(tmp_path):
    with Chromium(tmp_path) as browser:
        yield browser
        assert browser.errors == []
        assert {url.partition(":")[0] for url in browser.requests} <= {"file", "data", "blob"}


def start(browser: Chromium, page: Path, width: int = 1280, height: int = 800, dark: bool = False) -> None:
    browser.open(page / "page.html", width, height, dark)
    browser.press("Tab")
    browser.type(" Ann  B ")
    browser.press("Enter")


def test_keyboard_progress_and_saved_file(browser, pages):
    folder, _ = pages
    page = read_page(folder)
    ids = [pair.question.id for pair in page.pairs]
    start(browser, folder)
    assert browser.text("position") == "Pair 1 of 5, 0 decided"
    assert browser.text("question-text") == page.pairs[0].question.text
    assert browser.text("context") == page.pairs[0].question.context
    for side, response in zip(("first", "second"), page.pairs[0].shown[1:], strict=True):
        assert browser.text(f"{side}-rationale") == response.rationale
        assert browser.text(f"{side}-answer") == response.answer
    browser.press("1", "0", "x", "ArrowRight", "2")
    assert browser.text("position") == "Pair 5 of 5, 3 decided"
    start(browser, folder, 390, 800, dark=True)  # the page is opened again: nothing is lost
    assert browser.text("position") == "Pair 5 of 5, 3 decided"
    assert browser.js(OVERFLOW) <= 0
    assert browser.js(VISIBLE)
    browser.press("ArrowLeft")
    assert browser.js("document.querySelector('[aria-pressed=true]').dataset.choice") == "second"
    browser.press("ArrowRight", "1")
    assert browser.text("finish-title") == "4 of 5 pairs decided"
    assert browser.text("missing") == "Pairs without a choice: 3"
    browser.js("document.querySelector('#missing button').click()")
    assert browser.text("position") == "Pair 3 of 5, 4 decided"
    browser.press("0", "ArrowRight", "ArrowRight")
    assert browser.text("finish-title") == "All 5 pairs are decided"
    assert browser.js(OVERFLOW) <= 0
    browser.js("document.getElementById('download').click()")
    saved = browser.wait_for_download()
    assert saved.read_text() == browser.js("document.getElementById('export').value")
    assert json.loads(saved.read_text())["choices"] == dict(
        zip(ids, ("first", "tie", "tie", "second", "first"), strict=True)
    )
    choices = read_choice_file(saved, page)
    assert (choices.annotator, choices.first) == ("Ann B", 2)


def test_annotators_have_separate_progress_and_edit_training_rationales(browser, pages):
    _, folder = pages
    page = read_page(folder)
    start(browser, folder)
    browser.js("document.getElementById('second-edit-button').click()")
    browser.js("document.getElementById('second-edit').select()")
    browser.type("A better reason 1.")
    assert browser.text("position") == "Pair 1 of 6, 0 decided", "a digit in a text is no choice"
    browser.js("document.getElementById('second-edit-button').click()")
    assert browser.text("second-rationale") == "A better reason 1."
    browser.js("document.activeElement.blur()")
    browser.press("2", *"1" * 5)
    saved = json.loads(browser.js("document.getElementById('export').value"))
    assert saved["edits"] == {page.pairs[0].question.id: "A better reason 1."}
    browser.js("document.getElementById('back').click()")
    browser.press(*["ArrowLeft"] * 5, "1", "ArrowRight")
    browser.js("document.getElementById('save').click()")
    assert json.loads(browser.js("document.getElementById('export').value"))["edits"] == {}
    browser.open(folder / "page.html", 1280, 800)
    browser.press("Tab")
    browser.type("Bob")
    browser.press("Enter")
    assert browser.text("position") == "Pair 1 of 6, 0 decided"
