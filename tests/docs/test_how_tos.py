"""The how-tos of CONTRIBUTING.md work: their code is registered as they describe, and their tests pass."""

import functools
import inspect
import json
import re
import sys
import types

import pytest

from scotd_jax.rationales.importers.imported import Importer
from scotd_jax.rationales.importers.registry import IMPORTERS
from scotd_jax.tasks import recipes, registry, row_task
from tests.docs.pages import ROOT, blocks_of
from tests.rationales.importers import test_broken_rows

BLOCKS = [block.text for block in blocks_of(ROOT / "CONTRIBUTING.md") if block.language == "python"]


def block_with(text: str) -> str:
    """The only code block that contains `text`."""
    (found,) = [block for block in BLOCKS if text in block]
    return found


def run_tests(source: str, tmp_path) -> None:
    """Runs the test functions of a block."""
    space: dict = {}
    exec(compile(source, "CONTRIBUTING.md", "exec"), space)
    tests = [value for name, value in space.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test(*([tmp_path] if inspect.signature(test).parameters else []))


def import_block(source: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Returns the module that a code block defines; the first line of the block is the path of the module."""
    path = source.splitlines()[0].removeprefix("# ")
    assert not (ROOT / path).exists(), f"{path} exists; the how-to needs another example"
    name = path.removesuffix(".py").replace("/", ".")
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(source, path, "exec"), module.__dict__)
    return module


def test_task_how_to(tmp_path, monkeypatch):
    pears = import_block(block_with("PEARS = Dataset("), monkeypatch)
    monkeypatch.setitem(registry.KINDS, "pears", functools.partial(row_task.load, pears.PEARS))
    run_tests(block_with("def test_pears"), tmp_path)
    lines = next(b.text for b in blocks_of(ROOT / "CONTRIBUTING.md") if b.language == "json").splitlines()
    rows = [row_task.DataRow(json.loads(line), "docs", "pears", "train", i, {}) for i, line in enumerate(lines)]
    assert len({pears.pears_question(row).answer for row in rows}) == len(rows) == 5


def test_importer_how_to(tmp_path, monkeypatch):
    module = import_block(block_with("def pear_file("), monkeypatch)
    monkeypatch.setitem(IMPORTERS, "pear_file", Importer(module.pear_file))
    run_tests(block_with("def test_pear_file"), tmp_path)
    tables = dict(vars(test_broken_rows))
    exec(block_with('"pear_file", "missing"'), tables)
    monkeypatch.setitem(test_broken_rows.GOOD, "pear_file", tables["GOOD"]["pear_file"])
    for _, wrong, *row in tables["BROKEN"]:
        (tmp_path / wrong).mkdir()
        test_broken_rows.test_broken_row_is_reported_or_skipped(tmp_path / wrong, "pear_file", *row)


def test_recipe_how_to(tmp_path, monkeypatch):
    space: dict = {}
    exec(block_with("EXPLAIN_THEN_LABEL"), space)
    monkeypatch.setitem(recipes.RECIPES, "explain_then_label", space["EXPLAIN_THEN_LABEL"])
    assert recipes.find("explain_then_label", {}) is space["EXPLAIN_THEN_LABEL"]
    run_tests(block_with("def test_explain_then_label"), tmp_path)


def test_model_how_to_changes_code_that_exists():
    """Every hunk of the diffs applies: its context and removed lines are in the file, one after the other."""
    diffs = [block.text for block in blocks_of(ROOT / "CONTRIBUTING.md") if block.language == "diff"]
    assert len(diffs) == 4
    for diff in diffs:
        header, *hunks = re.split(r"^@@\n", diff, flags=re.M)
        path = header.splitlines()[0].removeprefix("--- a/")
        lines = [line for line in (ROOT / path).read_text().splitlines() if line.strip()]
        for hunk in hunks:
            old = [line[1:] for line in hunk.splitlines() if not line.startswith("+")]
            assert any(lines[i : i + len(old)] == old for i in range(len(lines))), f"{path}: no such lines:\n{hunk}"
