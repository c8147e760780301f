"""After kill -9 at random times, the same command loses and duplicates no row and trains the same parameters."""

import json
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import jax
import numpy as np
import pytest

from scotd_jax.models import registry
from scotd_jax.rationales.store import read_responses
from scotd_jax.training.checkpoints import load_params
from tests.helpers.cli import run_cli, start_program

pytestmark = pytest.mark.slow

KILLS = 3


CONFIG = "--config=tests/configs/small_chain.py"


def start(workdir: Path, jobs: str) -> BaseProcess:
    output = workdir.with_name(f"{workdir.name}.output")
    output.mkdir(exist_ok=True)
    flags = CONFIG, f"--workdir={workdir}", f"--jobs={jobs}"
    # With fast compilation, since nine processes compile.
    return start_program("scotd_jax.main", *flags, output=output, fast_compilation=True)


def finish(workdir: Path, jobs: str, new_interpreter: bool = False) -> None:
    flags = CONFIG, f"--workdir={workdir}", f"--jobs={jobs}"
    done = run_cli(*flags, fast_compilation=True, new_interpreter=new_interpreter)
    assert done.returncode == 0, done.stderr


def kill_after(workdir: Path, jobs: str, has_begun, delay: float) -> bool:
    """Kills a run `delay` seconds after `has_begun()`. Returns whether it was still running."""
    process = start(workdir, jobs)
    deadline = time.monotonic() + 300
    while process.is_alive() and not has_begun() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(delay)
    running = process.is_alive()
    process.kill()
    process.join()
    return running


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """The work directory of an uninterrupted run. Its interpreter has another hash seed than the killed ones."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    finish(workdir, "sample,build,train", new_interpreter=True)
    return workdir


def files_in(folder: Path, pattern: str = "*") -> list[Path]:
    """Returns the files of a folder; none if it is missing, or is removed meanwhile, as parts are after a merge."""
    try:
        return list(folder.glob(pattern))
    except FileNotFoundError:
        return []


def test_killed_sampling_neither_loses_nor_duplicates_rows(uninterrupted, tmp_path):
    parts = tmp_path / "rationales" / "teacher" / "parts"
    rng = random.Random(0)
    kills = 0
    for _ in range(KILLS):
        earlier = {path: path.read_bytes() for path in files_in(parts, "*.jsonl")}

        def has_begun(earlier=earlier):
            return len(files_in(parts, "*.jsonl")) > len(earlier)

        kills += kill_after(tmp_path, "sample", has_begun, rng.uniform(0, 0.05))
        for path, content in earlier.items():
            if path.exists():
                assert path.read_bytes() == content, "a written row must not change"
    assert kills, "no run was killed before its end, so nothing was tested"
    finish(tmp_path, "sample")
    ours, expected = (
        list(read_responses(sorted((d / "rationales" / "teacher").glob("responses-*.jsonl"))))
        for d in (tmp_path, uninterrupted)
    )
    keys = [row.key for row in ours]
    assert len(keys) == len(set(keys)) == 24 * 5
    assert ours == expected, "rows do not depend on interruptions"


def test_killed_training_ends_with_the_same_parameters(uninterrupted, tmp_path):
    finish(tmp_path, "sample,build")
    checkpoints = tmp_path / "students" / "student" / "checkpoints"
    rng = random.Random(1)
    kills = 0
    for _ in range(KILLS):
        seen = len(files_in(checkpoints))

        def has_begun(seen=seen):
            return len(files_in(checkpoints)) > seen

        kills += kill_after(tmp_path, "train", has_begun, rng.uniform(0, 0.1))
    assert kills, "no run was killed before its end, so nothing was tested"
    finish(tmp_path, "train")
    abstract = registry.build(config_of(uninterrupted)).abstract()
    ours, expected = (
        load_params(d / "students" / "student" / "checkpoints", abstract, "last")[0] for d in (tmp_path, uninterrupted)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, expected)
    lines = [
        [json.loads(line)["step"] for line in (d / "students/student/metrics.jsonl").read_text().splitlines()]
        for d in (tmp_path, uninterrupted)
    ]
    assert lines[0] == lines[1], "metrics hold every update once"


def config_of(workdir: Path):
    """Returns the model config of the student."""
    from scotd_jax import config as c
    from scotd_jax.jobs.context import make_context
    from scotd_jax.workdir import Workdir

    config = c.from_mapping(c.Config, json.loads((workdir / "config.json").read_text()))
    return make_context(config, Workdir(str(workdir))).models.architecture(config.students["student"].model)
