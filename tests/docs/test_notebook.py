"""The notebook runs, and holds the outputs that the pages show."""

import json
import re

import pytest

from tests.docs.pages import DOCS

NOTEBOOK = json.loads((DOCS / "notebooks" / "distill_in_the_world.ipynb").read_text())
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def text_of(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)


def test_notebook_holds_outputs():
    assert all(cell["execution_count"] for cell in CODE)
    printing = [cell for cell in CODE if "print(" in text_of(cell["source"])]
    assert all(cell["outputs"] for cell in printing)


@pytest.mark.filterwarnings("ignore:Implicitly cleaning up", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("calls_are_not_retraced")
def test_notebook_runs(capsys):
    space: dict = {}
    for number, cell in enumerate(CODE, 1):
        exec(compile(text_of(cell["source"]), f"cell {number}", "exec"), space)
    accuracy = float(re.search(r"accuracy ([\d.]+) %", capsys.readouterr().out)[1])
    assert accuracy > 60, "guessing gives 50"
