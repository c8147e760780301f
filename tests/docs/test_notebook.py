"""The notebook runs as a user's process does, and holds the outputs that the pages show."""

import json
import re
import subprocess
import sys

import pytest

from tests.docs.pages import DOCS
from tests.helpers.cli import ROOT, environment

pytestmark = pytest.mark.slow

NOTEBOOK = json.loads((DOCS / "notebooks" / "distill_in_the_world.ipynb").read_text())
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def source_of(cell: dict) -> str:
    return "".join(cell["source"])


def test_notebook_holds_outputs():
    assert all(cell["execution_count"] for cell in CODE)
    assert all(cell["outputs"] for cell in CODE if "print(" in source_of(cell))


def test_notebook_runs():
    code = "\n".join(map(source_of, CODE))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment())
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"accuracy ([\d.]+) %", done.stdout)[1]) > 55, "guessing gives 50"
