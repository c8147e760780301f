"""The method table as files for papers and repositories: LaTeX with booktabs, and Markdown."""

from collections.abc import Iterable, Sequence

from scotd_jax.reporting.method_table import MethodCell, MethodTable

SYMBOLS = {"better": "*", "worse": "\N{DAGGER}"}  # marks of significance
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "\N{EN DASH}": "--",
    "\N{MINUS SIGN}": "$-$",
    "\N{NO-BREAK SPACE}": "~",
}


def table_files(results: Sequence[MethodTable], confidence: float) -> dict[str, str]:
    """Returns the files results.tex and results.md, by name. `results` has one table per reading."""
    written = {"results.tex": to_latex, "results.md": to_markdown}
    return {name: "\n".join(write(table, confidence) for table in results) for name, write in written.items()}


def to_latex(table: MethodTable, confidence: float) -> str:
    r"""Returns a tabular environment for the package booktabs.

    Args:
      table: the table.
      confidence: confidence level of the intervals.
    """
    names = ["arm", *(name for name, _ in table.columns)]
    counts = ["", *(rf"{{\scriptsize {_latex(count)}}}" for _, count in table.columns)]
    lines = [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
    lines += [" & ".join(map(_latex, names)) + r" \\", " & ".join(counts) + r" \\", r"\midrule"]
    for line, previous in zip(table.lines, (None, *table.lines), strict=False):
        if previous is not None and line.kind != previous.kind and line.kind in ("model", "baseline"):
            lines.append(r"\midrule")
        if line.kind == "model":
            lines.append(rf"\multicolumn{{{len(names)}}}{{l}}{{\emph{{{_latex(line.name)}}}}} \\")
        else:
            lines.append(" & ".join([_latex(line.name), *map(_latex_cell, line.cells)]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    notes = [f"% {note}" for note in (*describe_table(table, confidence), r"\usepackage{booktabs}")]
    return "\n".join([*notes, *lines]) + "\n"


def to_markdown(table: MethodTable, confidence: float) -> str:
    """Returns a Markdown table with its notes. Arguments as in `to_latex`."""
    header = ["arm", *(f"{name} ({count})" for name, count in table.columns), "runs"]
    rows = []
    for line in table.lines:
        name = f"*{line.name}*" if line.kind == "model" else line.name
        cells = line.cells or ("",) * len(table.columns)
        rows.append([name, *map(_markdown_cell, cells), line.runs.value if line.runs else ""])
    return f"{markdown_table(header, rows)}\n\n{' '.join(describe_table(table, confidence))}\n"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a Markdown table. Cells may have any text; line ends become blanks."""
    lines = [header, ["---"] * len(header), *rows]
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def describe_table(table: MethodTable, confidence: float) -> list[str]:
    """Returns sentences on the numbers and marks of a table."""
    reading = f", answers {table.reading}" if table.reading else ""
    sentences = [f"Accuracy in percent{reading} ({100 * confidence:g} % interval). Bold: highest student of a column."]
    if marks := [f"{SYMBOLS[mark]} significantly {mark}" for mark in SYMBOLS if mark in table.marks]:
        references = " or ".join(
            f"\N{LEFT DOUBLE QUOTATION MARK}{r}\N{RIGHT DOUBLE QUOTATION MARK}" for r in table.references
        )
        sentences.append(f"{', '.join(marks)} than {references} (p-value Holm-corrected over all comparisons).")
    return sentences


def _latex_cell(cell: MethodCell | None) -> str:
    if cell is None:
        return "--"
    value = rf"\textbf{{{_latex(cell.value)}}}" if cell.best else _latex(cell.value)
    mark = {"better": "$^{*}$", "worse": r"$^{\dagger}$", "": ""}[cell.mark]
    small = ", ".join(filter(None, (cell.detail, *cell.notes)))
    return value + mark + (rf"\,{{\scriptsize {_latex(small)}}}" if small else "")


def _markdown_cell(cell: MethodCell | str | None) -> str:
    if cell is None or isinstance(cell, str):
        return "\N{EN DASH}" if cell is None else cell
    value = f"**{cell.value}**" if cell.best else cell.value
    mark = SYMBOLS[cell.mark].replace("*", r"\*") if cell.mark else ""
    small = ", ".join(filter(None, (cell.detail, *cell.notes)))
    return value + mark + (f" ({small.strip('()')})" if small else "")


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
