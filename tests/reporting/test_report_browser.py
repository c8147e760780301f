"""The report in headless Chromium, on a phone and on a desktop: nothing overflows or overlaps, and keys suffice."""

from collections.abc import Iterator

import pytest

from scotd_jax.reporting import plots, tables
from scotd_jax.reporting.curve_plots import curve_panel, reliability_panel
from scotd_jax.reporting.curves import AXES, curves
from scotd_jax.reporting.data import EvalSet, ReportData
from scotd_jax.reporting.html_page import render
from tests.helpers.chromium import BINARY, Chromium
from tests.helpers.invented_report import invented
from tests.helpers.report_arms import arm

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BINARY is None, reason="needs Chromium or Chrome in the PATH")]
SHOWN = "[...document.querySelectorAll('.entry')].filter(entry => entry.offsetParent).length"
# Texts of plots that lie over a dot, over another text, or beyond the window.
COVERED = """[...document.querySelectorAll('svg')].flatMap(svg => {
  const boxes = kind => [...svg.querySelectorAll(kind)].map(element => [element, element.getBoundingClientRect()]);
  const texts = boxes('text'), marks = boxes('use');
  const meet = (a, b) => a.left < b.right && b.left < a.right && a.top + 2 < b.bottom - 2 && b.top + 2 < a.bottom - 2;
  const others = i => [...marks, ...texts.slice(i + 1)];
  const bad = ([, box], i) => others(i).some(([, other]) => meet(box, other)) || box.right > innerWidth;
  return texts.filter(bad).map(([text]) => text.textContent.trim());
})"""


@pytest.fixture
def browser(tmp_path) -> Iterator[Chromium]:
    with Chromium(tmp_path) as browser:
        yield browser
        assert browser.errors == []
        assert {url.partition(":")[0] for url in browser.requests} == {"file"}


def test_page_fits_phones_and_desktops_and_is_used_by_keyboard(browser, tmp_path):
    file = tmp_path / "index.html"
    file.write_text(render(invented(per_set=24)))
    for width, dark in ((390, True), (1280, False)):
        browser.open(file, width, 800, dark)
        assert browser.js("document.documentElement.scrollWidth") <= width
        assert browser.js(COVERED) == []
    browser.press("Tab", "Enter")
    assert browser.js("location.hash") == "#run"
    entries = browser.js(SHOWN)
    browser.js("document.querySelector('#examples input:not([checked])').focus()")
    browser.press(" ")
    assert 0 < browser.js(SHOWN) < entries
    browser.js("document.querySelector('#accuracy summary').focus()")
    browser.press("Enter")
    assert browser.js("document.querySelector('#accuracy details').open")
    wide = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
    assert browser.js(f"{wide}.every(e => e.tabIndex === 0)"), "a table cannot be scrolled by keyboard"


def test_names_of_eight_arms_cover_no_dot(browser, tmp_path):
    arms = [
        arm(f"students of curve {i}, N = {n}", 0.5 + i / 100 + n / 200, samples=n, curve=str(i), model="opt", seed=seed)
        for i in range(8)
        for n in (1, 5, 30)
        for seed in (0, 1)
    ]
    rows = tables.arm_rows(ReportData("r", arms))
    evalset, bins = EvalSet("w.test"), [{"confidence": x, "accuracy": x, "n": 5} for x in (0.2, 0.8, 1.0)]
    panels = [
        plots.accuracy_panel(rows[:8], evalset, majority={"accuracy": 0.52}),
        curve_panel(AXES[0], curves(rows, AXES[0]), evalset, {}),
        reliability_panel({f"arm {i} with a longer name": bins for i in range(8)}, "reliability"),
    ]
    file = tmp_path / "plots.html"
    file.write_text(f"<meta charset=utf-8><style>svg {{ width: 350px; display: block }}</style>{''.join(panels)}")
    browser.open(file, 390, 800)
    assert browser.js("document.querySelectorAll('svg').length") == 3
    assert browser.js(COVERED) == []
