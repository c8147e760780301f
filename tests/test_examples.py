"""Tests that the scripts in examples/ run as a user starts them, and that the Python API is complete and lazy."""

import subprocess
import sys

import pytest

import scotd_jax as scotd
from tests.helpers.cli import ROOT, run_program


def run_example(name: str, *flags: str) -> str:
    done = run_program(f"examples/{name}.py", *flags, fast_compilation=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_sample_example_prints_responses():
    output = run_example("sample", "--questions=2", "--n=2")
    assert output.count("world/test/") == 4
    assert "of 4 responses have the right answer" in output


@pytest.mark.slow
def test_evaluate_example_prints_accuracy():
    output = run_example("evaluate", "--questions=8")
    assert "% of 8 questions" in output
    assert "guessing would give 50.0 %" in output


@pytest.mark.slow
def test_distill_example_exports_a_student_that_the_other_examples_load(tmp_path):
    output = run_example("distill", "--steps=2", "--questions=4", f"--output={tmp_path}/student")
    assert "kept 0 of 16 responses" in output
    assert "% of 64 questions" in output
    assert "of 2 responses have" in run_example("sample", f"--model={tmp_path}/student", "--questions=1")


def test_public_names_exist_and_are_documented():
    for name in scotd.__all__:
        assert getattr(scotd, name).__doc__, name
    assert set(scotd.__all__) <= set(dir(scotd))
    with pytest.raises(AttributeError, match="has no attribute 'smaple'"):
        scotd.smaple  # noqa: B018


def test_importing_the_package_does_not_import_jax():
    code = "import sys, scotd_jax; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "False\n"


def test_examples_are_short():
    for path in (ROOT / "examples").glob("*.py"):
        assert len(path.read_text().splitlines()) < 60, path
