"""The method table: its marks of significance, and the same cells on the page, in LaTeX and in Markdown."""

import re

import pytest

from scotd_jax.reporting import comparisons, tables
from scotd_jax.reporting.data import ReportData
from scotd_jax.reporting.html_page import render
from scotd_jax.reporting.method_table import MethodTable, method_table
from scotd_jax.reporting.table_files import describe_table, markdown_table, to_latex, to_markdown
from tests.helpers.html_page import Page
from tests.helpers.report_arms import arm, plain

EVIL = r"50 % of {a_b} & #1 \x ~ ^ < > | " + "\N{MINUS SIGN} $y$"
ARMS = [
    arm("labels", 0.5, samples=0, model="opt"),
    arm("N = 1", 0.2, samples=1, model="opt"),
    arm(EVIL, 0.53, model="opt"),
    arm("N = 30", 0.9, samples=30, model="opt"),
    arm("before", 0.1, role="untrained", model="opt"),
    arm("labels", 0.5, samples=0, model="t5"),
    arm("N = 30", 0.3, samples=30, model="t5"),
    arm("teacher", 0.95, role="teacher"),
]


def table_of(data: ReportData) -> MethodTable:
    rows = tables.arm_rows(data)
    return method_table(rows, tables.evaluated_sets(data), comparisons.compare_arms(data, rows), data)


@pytest.fixture(scope="module")
def table() -> MethodTable:
    return table_of(ReportData("r", ARMS))


def marks(table: MethodTable) -> list[tuple[str, str]]:
    return [(line.name, line.cells[0].mark) for line in table.lines if line.cells and line.cells[0] and line.runs]


def test_marks_compare_with_label_only_training(table):
    assert marks(table) == [
        ("teacher", ""),
        ("before", "worse"),
        ("labels", ""),
        ("N = 1", "worse"),
        (EVIL, ""),
        ("N = 30", "better"),
        ("labels", ""),
        ("N = 30", "worse"),
    ]
    assert [(line.name, line.kind) for line in table.lines if not line.runs] == [
        ("reference models", "model"),
        ("opt", "model"),
        ("t5", "model"),
        ("chance", "baseline"),
    ]
    [cell] = table.lines[7].cells
    assert (cell.value, cell.detail, cell.best) == ("90.0", "82\N{EN DASH}95", True)


def test_marks_need_a_test_that_is_significant_after_correction(table):
    # 57 of 100 against 50 of 100 on the same questions: p = 0.008 alone, and above 0.05 in a family of nine tests.
    arms = [arm("labels", 0.5, samples=0), arm("N = 5", 0.57, samples=5)]
    assert marks(table_of(ReportData("r", arms)))[1] == ("N = 5", "better")
    others = [arm(f"n{i}", 0.5 + 0.01 * i, samples=2) for i in range(4)]
    assert marks(table_of(ReportData("r", [*arms, *others])))[1] == ("N = 5", "")


@pytest.mark.parametrize(
    ("comparisons", "reference"),
    [
        ((), "N = 30"),  # without labels, the arm with most samples is tested against all others
        ((("N = 30", "N = 1"),), "N = 1"),
        ((("N = 1", "N = 5"), ("N = 30", "N = 5")), "N = 5"),
    ],
)
def test_marks_compare_with_the_arm_that_most_others_are_tested_against(comparisons, reference):
    arms = [arm("N = 30", 0.9, samples=30), arm("N = 5", 0.5, samples=5), arm("N = 1", 0.2, samples=1)]
    table = table_of(ReportData("r", arms, comparisons=comparisons))
    assert table.references == (reference,)
    expected = {"N = 30": ["", "worse", "worse"], "N = 1": ["better", "", ""], "N = 5": ["better", "", "worse"]}
    assert [mark for _, mark in marks(table)] == expected[reference]


def test_page_latex_and_markdown_have_the_same_cells(table):
    cells = [cell for line in table.lines for cell in line.cells]
    words, markdown, latex = (
        plain(Page(render(ReportData("r", ARMS))).words),
        to_markdown(table, 0.95),
        to_latex(table, 0.95),
    )
    html_symbols, tex_symbols = (
        {"better": "*", "worse": "†", "": ""},
        {"better": "$^{*}$", "worse": r"$^{\dagger}$", "": ""},
    )
    for cell in cells:
        assert f"{cell.value}{html_symbols[cell.mark]}{cell.detail}" in words
        bold = f"**{cell.value}**" if cell.best else cell.value
        assert bold + html_symbols[cell.mark].replace("*", r"\*") in markdown
        bold = rf"\textbf{{{cell.value}}}" if cell.best else cell.value
        assert bold + tex_symbols[cell.mark] in latex
    note = describe_table(table, 0.95)[1]
    assert note == (
        "* significantly better, † significantly worse than “labels” (p-value Holm-corrected over all comparisons)."
    )
    for text in (words, markdown, latex):
        assert note in text


def test_latex_has_balanced_rows_and_escapes_names(table):
    latex = to_latex(table, 0.95)
    body = latex[latex.index(r"\begin") :].splitlines()
    assert (body[0], body[1], body[-2], body[-1]) == (
        r"\begin{tabular}{lr}", r"\toprule", r"\bottomrule", r"\end{tabular}",
    )  # fmt: skip
    for line in body[2:-2]:
        unescaped = re.sub(r"\\[&%$#_{}]", "", line)
        assert unescaped.count("{") == unescaped.count("}")
        assert line == r"\midrule" or unescaped.count("&") == (0 if "multicolumn" in line else 1)
    expected = r"50 \% of \{a\_b\} \& \#1 \textbackslash{}x \textasciitilde{} \textasciicircum{} $<$ $>$ $|$ $-$ \$y\$"
    assert f"{expected} & 53.0" in latex


def test_markdown_cells_cannot_break_a_row(table):
    rows = [line for line in to_markdown(table, 0.95).splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(table.lines)
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {5}
    assert markdown_table(["a"], [["x\ny"]]) == "| a |\n| --- |\n| x y |"
