"""The notebook runs as a user's process does, and holds the outputs that the pages show."""

import json
import re

import pytest

from tests.docs.pages import DOCS
from tests.helpers.cli import run_program

pytestmark = pytest.mark.slow

NOTEBOOK = json.loads((DOCS / "notebooks" / "distill_in_the_world.ipynb").read_text())
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def source_of(cell: dict) -> str:
    return "".join(cell["source"])


def test_notebook_holds_outputs():
    assert all(cell["execution_count"] for cell in CODE)
    assert all(cell["outputs"] for cell in CODE if "print(" in source_of(cell))


def test_stored_outputs_show_a_student_that_beats_guessing():
    outputs = "".join(text for cell in CODE for output in cell["outputs"] for text in output.get("text", ()))
    assert accuracy(outputs) > 60, "guessing gives 50"


def test_notebook_runs(tmp_path):
    """Runs all cells with an eighth of the updates and a fifth of the questions, which take most of the time."""
    code = "\n".join(map(source_of, CODE))
    code, count = re.subn(r"\bsteps=(\d+)", lambda match: f"steps={int(match[1]) // 8}", code)
    assert count == 2, "teacher and student"
    assert "train=300" in code
    code = (
        code.replace("train=300", "train=60")
        .replace('"warmup_steps": 50', '"warmup_steps": 6')
        .replace("step % 300", "step % 50")
    )
    (tmp_path / "notebook.py").write_text(code)
    done = run_program(str(tmp_path / "notebook.py"), fast_compilation=True)
    assert done.returncode == 0, done.stderr
    assert 0 <= accuracy(done.stdout) <= 100


def accuracy(output: str) -> float:
    return float(re.search(r"accuracy ([\d.]+) %", output)[1])
