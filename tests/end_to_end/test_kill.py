"""kill -9 at random moments, then the same command: no row lost or doubled, and the very same parameters."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from scotd_jax.models import registry
from scotd_jax.rationales.store import read_responses
from scotd_jax.training.checkpoints import load_params
from tests.helpers.cli import ROOT, environment

KILLS = 3


def start(workdir: Path, jobs: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "scotd_jax.main", "--config=tests/configs/cut.py", f"--workdir={workdir}"]
    return subprocess.Popen(
        [*command, f"--jobs={jobs}"],
        cwd=ROOT,
        env=environment(hurry=True),  # nine processes that compile
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def finish(workdir: Path, jobs: str) -> None:
    process = start(workdir, jobs)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


def kill_once_begun(workdir: Path, jobs: str, begun, wait: float) -> bool:
    """Kills the run `wait` seconds after `begun()`; True if that was before its end."""
    process = start(workdir, jobs)
    deadline = time.monotonic() + 300
    while process.poll() is None and not begun() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(wait)
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return running


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that nobody cuts."""
    workdir = tmp_path_factory.mktemp("whole")
    finish(workdir, "sample,build,train")
    return workdir


def files_in(folder: Path, pattern: str = "*") -> list[Path]:
    """Empty where the folder is not there, or goes away while it is read: a finished run removes its parts."""
    try:
        return list(folder.glob(pattern))
    except FileNotFoundError:
        return []


def test_sampling_that_is_killed_loses_and_doubles_nothing(whole, tmp_path):
    parts = tmp_path / "rationales" / "said" / "parts"
    rng = random.Random(0)
    cut = 0
    for _ in range(KILLS):
        earlier = {path: path.read_bytes() for path in files_in(parts, "*.jsonl")}

        def begun(earlier=earlier):
            return len(files_in(parts, "*.jsonl")) > len(earlier)

        cut += kill_once_begun(tmp_path, "sample", begun, rng.uniform(0, 0.05))
        for path, content in earlier.items():
            if path.exists():
                assert path.read_bytes() == content, "a row that was written must not change"
    assert cut, "no run was cut before its end, so nothing was tested"
    finish(tmp_path, "sample")
    ours, theirs = (
        list(read_responses(sorted((d / "rationales" / "said").glob("responses-*.jsonl")))) for d in (tmp_path, whole)
    )
    names = [row.key for row in ours]
    assert len(names) == len(set(names)) == 24 * 5
    assert ours == theirs, "the rows themselves do not depend on where the run was cut"


def test_training_that_is_killed_ends_with_the_same_parameters(whole, tmp_path):
    finish(tmp_path, "sample,build")
    checkpoints = tmp_path / "students" / "student" / "checkpoints"
    rng = random.Random(1)
    cut = 0
    for _ in range(KILLS):
        seen = len(files_in(checkpoints))

        def begun(seen=seen):
            return len(files_in(checkpoints)) > seen

        cut += kill_once_begun(tmp_path, "train", begun, rng.uniform(0, 0.1))
    assert cut, "no run was cut before its end, so nothing was tested"
    finish(tmp_path, "train")
    abstract = registry.build(config_of(whole)).abstract()
    ours, theirs = (
        load_params(d / "students" / "student" / "checkpoints", abstract, "last")[0] for d in (tmp_path, whole)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    lines = [
        [json.loads(line)["step"] for line in (d / "students/student/metrics.jsonl").read_text().splitlines()]
        for d in (tmp_path, whole)
    ]
    assert lines[0] == lines[1], "every update is in the metrics once"


def config_of(workdir: Path):
    from scotd_jax import config as c
    from scotd_jax.jobs.context import make_context
    from scotd_jax.workdir import Workdir

    config = c.from_mapping(c.Config, json.loads((workdir / "config.json").read_text()))
    return make_context(config, Workdir(str(workdir))).models.architecture(config.students["student"].model)
