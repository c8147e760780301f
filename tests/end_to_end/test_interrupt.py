"""Ctrl-C ends a run with a message that states what is saved, and the same command resumes."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.cli import start_program

pytestmark = pytest.mark.slow

# As from a terminal: a test run in the background ignores SIGINT, and so would the processes that it starts.
MAIN = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("scotd_jax.main", run_name="__main__")
"""
FLAGS = ["--config=tests/configs/small_chain.py", "--jobs=sample,build,train"]


def interrupt(workdir: Path, ready: Callable[[], bool], *flags: str) -> tuple[int, list[str]]:
    """Sends SIGINT as soon as `ready` returns true. Returns the exit status and the printed lines."""
    output = workdir / "output"
    output.mkdir(exist_ok=True)
    program = output / "main.py"
    program.write_text(MAIN)
    process = start_program(str(program), *FLAGS, f"--workdir={workdir}", *flags, output=output, fast_compilation=True)
    while process.is_alive() and not ready():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.join(timeout=120)
    return process.exitcode, (output / "stderr").read_text().splitlines()


def test_interrupt_reports_what_is_saved_and_the_same_command_resumes(tmp_path):
    status, lines = interrupt(tmp_path, lambda: "[1/4] sample teacher" in (tmp_path / "output/stderr").read_text())
    assert status == 130
    assert lines[-1] == (
        "interrupted in step 1 of 4 (sample teacher): its responses so far are saved; the same command resumes"
    )
    checkpoints = tmp_path / "students/student/checkpoints"
    status, lines = interrupt(
        tmp_path,
        lambda: any(path.name.isdigit() for path in checkpoints.glob("*")),
        "--config.students.student.training.steps=100000",
    )
    assert status == 130
    assert lines[-1].startswith("interrupted in step 4 of 4 (train student): its checkpoint of update ")
    assert lines[-1].endswith(" is saved; the same command resumes")
    assert (checkpoints / lines[-1].partition("update ")[2].split()[0]).is_dir()
    assert "Traceback" not in "\n".join(lines)
