"""Ctrl-C ends a run with one line that says what is saved, and the same command resumes."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.helpers.cli import ROOT, environment

FLAGS = ["--config=tests/configs/cut.py", "--jobs=sample,build,train"]


def interrupted(workdir: Path, line: str, *flags: str) -> tuple[int, list[str]]:
    """Sends SIGINT once `line` is in the output. Returns the exit status and the lines after that one."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scotd_jax.main", *FLAGS, f"--workdir={workdir}", *flags],
        cwd=ROOT,
        env=environment(hurry=True),
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        for printed in process.stderr:
            if line in printed:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    return process.returncode, rest.splitlines()


def test_interrupt_tells_what_is_saved_and_the_same_command_resumes(tmp_path):
    status, lines = interrupted(tmp_path, "[1/4] sample said")
    assert status == 130
    assert lines[-1] == (
        "interrupted in step 1 of 4 (sample said): its responses so far are saved; the same command resumes"
    )
    assert "Traceback" not in "\n".join(lines)
    steps = "--config.students.student.training.steps=100000"
    status, lines = interrupted(tmp_path, " of 100,000 updates", steps)
    assert status == 130
    assert lines[-1].startswith("interrupted in step 4 of 4 (train student): its checkpoint of update ")
    assert lines[-1].endswith(" is saved; the same command resumes")
    checkpoint = int(lines[-1].partition("update ")[2].split()[0])
    assert (tmp_path / "students/student/checkpoints" / str(checkpoint)).is_dir()
