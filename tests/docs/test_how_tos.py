"""The how-tos of CONTRIBUTING.md work: their code is registered as they describe, and their tests pass."""

import functools
import inspect
import sys
import types

import pytest

from scotd_jax.rationales.importers.registry import IMPORTERS
from scotd_jax.tasks import recipes, registry, row_task
from tests.docs.pages import ROOT, blocks_of

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
    """The module of a block whose first line is its path in the package."""
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


def test_importer_how_to(tmp_path, monkeypatch):
    import_block(block_with("def pear_file("), monkeypatch)
    assert "pear_file" not in IMPORTERS
    run_tests(block_with("def test_pear_file"), tmp_path)


def test_recipe_how_to(tmp_path, monkeypatch):
    space: dict = {}
    exec(block_with("EXPLAIN_THEN_LABEL"), space)
    monkeypatch.setitem(recipes.RECIPES, "explain_then_label", space["EXPLAIN_THEN_LABEL"])
    assert recipes.find("explain_then_label", {}) is space["EXPLAIN_THEN_LABEL"]
    run_tests(block_with("def test_explain_then_label"), tmp_path)
