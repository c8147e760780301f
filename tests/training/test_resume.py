"""A run that is cut and goes on ends where one ends that was never cut."""

import contextlib
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from scotd_jax import config
from scotd_jax.distributed.mesh import make_mesh
from scotd_jax.training.checkpoints import Checkpoints, load_params
from scotd_jax.training.metrics import read_metrics
from tests.helpers.resume_program import MODEL, STEPS, run
from tests.helpers.tolerances import GRADIENT
from tests.helpers.training_fixtures import batches, is_time

pytestmark = pytest.mark.usefixtures("calls_are_not_retraced")


@pytest.fixture(scope="module")
def uncut(tmp_path_factory, one_device):
    folder = tmp_path_factory.mktemp("uncut")
    run(folder, one_device)
    return folder


def lines(folder):
    return [{k: v for k, v in row.items() if not is_time(k)} for row in read_metrics(folder / "metrics.jsonl")]


def final(folder):
    return load_params(folder / "checkpoints", MODEL.abstract(), "last")


def assert_same_end(folder, uncut):
    params, step = final(folder)
    expected, _ = final(uncut)
    assert step == STEPS
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert lines(folder) == lines(uncut)
    names = [sorted(path.name for path in (f / "checkpoints").iterdir()) for f in (folder, uncut)]
    assert names[0] == names[1]


def killed_at(folder, batch: int) -> int:
    """Runs the program and kills it while it takes its `batch`-th batch. The exit status (0: it ended before)."""
    command = [sys.executable, "-m", "tests.helpers.resume_program", str(folder), "0.02"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as program:
        for line in program.stdout:
            if int(line) == batch:
                program.send_signal(signal.SIGKILL)
                break
    return program.returncode


def test_kill_9_at_random_steps_ends_bit_equal(uncut, tmp_path):
    draw = random.Random()
    moments = [draw.randint(4, 12), draw.randint(1, 8)]
    print(f"killed while taking batches {moments} of each start")  # seen when the test fails
    for moment in moments:
        assert killed_at(tmp_path, moment) == -signal.SIGKILL
    assert killed_at(tmp_path, STEPS + 1) == 0
    assert_same_end(tmp_path, uncut)


class CutError(Exception):
    """Stops a run from outside."""


class CutAt:
    """Batches that end a run while its batch number `last` is taken."""

    def __init__(self, last: int):
        self._loader, self._left = batches(4), last
        self.get_state = self._loader.get_state
        self.set_state = self._loader.set_state

    def __next__(self):
        self._left -= 1
        if self._left == 0:
            raise CutError
        return next(self._loader)


@pytest.mark.parametrize("moment", [1, 4, 9, STEPS])
def test_an_exception_at_a_step_ends_bit_equal(uncut, one_device, tmp_path, moment):
    with contextlib.suppress(CutError):
        run(tmp_path, one_device, CutAt(moment))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert (checkpoints.latest or 0) < STEPS
    run(tmp_path, one_device)
    assert_same_end(tmp_path, uncut)


def test_a_run_goes_on_with_another_mesh_and_the_same_batches(uncut, one_device, tmp_path):
    with contextlib.suppress(CutError):
        run(tmp_path, one_device, CutAt(11))
    eight = make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    run(tmp_path, eight)
    (params, step), (expected, _) = final(tmp_path), final(uncut)
    assert step == STEPS
    scale = max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(expected))
    # 14 updates each repeat the rounding of a gradient
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=14 * GRADIENT * scale), params, expected)
    for found, line in zip(lines(tmp_path), lines(uncut), strict=True):
        assert found["step"] == line["step"]
        assert found.get("tokens") == line.get("tokens")  # the same batches
        np.testing.assert_allclose(found.get("loss", 0.0), line.get("loss", 0.0), rtol=1e-4)


def test_what_a_kill_left_half_written_is_no_checkpoint(uncut, one_device, tmp_path):
    shutil.copytree(uncut, tmp_path, dirs_exist_ok=True)
    last = tmp_path / "checkpoints" / str(STEPS)
    shutil.copytree(last, last.with_name("20.orbax-checkpoint-tmp"))  # swept away
    last.rename(last.with_name(last.name + ".orbax-checkpoint-tmp"))  # and never taken for the last checkpoint
    run(tmp_path, one_device)
    assert_same_end(tmp_path, uncut)
