"""An interrupted and resumed run ends with the same bits as an uninterrupted one."""

import contextlib
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from scotd_jax import config
from scotd_jax.distributed.mesh import make_mesh
from scotd_jax.training.checkpoints import latest_step, load_params
from scotd_jax.training.metrics import read_metrics
from tests.helpers.cli import start_program
from tests.helpers.exhaustive import repeat_for
from tests.helpers.resume_program import MODEL, STEPS, run
from tests.helpers.tolerances import GRADIENT
from tests.helpers.training_fixtures import batches, is_time

pytestmark = pytest.mark.usefixtures("calls_are_not_retraced", "fast_compilation")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, one_device):
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder, one_device)
    return folder


def metrics_lines(folder):
    return [{k: v for k, v in row.items() if not is_time(k)} for row in read_metrics(folder / "metrics.jsonl")]


def final_params(folder):
    return load_params(folder / "checkpoints", MODEL.abstract(), "last")


def assert_same_end(folder, uninterrupted):
    params, step = final_params(folder)
    expected, _ = final_params(uninterrupted)
    assert step == STEPS
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert metrics_lines(folder) == metrics_lines(uninterrupted)
    names = [sorted(path.name for path in (f / "checkpoints").iterdir()) for f in (folder, uninterrupted)]
    assert names[0] == names[1]


def run_and_kill(folder, batch: int) -> int:
    """Runs the program, kills it while it takes its `batch`-th batch, and returns the exit status (0 if not killed)."""
    seconds_per_batch = "0.02"  # a pause, so that the signal arrives before the batch is taken
    with tempfile.TemporaryDirectory() as name:
        output = Path(name)
        flags = str(folder), seconds_per_batch
        program = start_program("tests.helpers.resume_program", *flags, output=output, fast_compilation=True)
        while program.is_alive() and str(batch) not in (output / "stdout").read_text().split():
            time.sleep(0.001)
        program.kill()
        program.join()
        print((output / "stderr").read_text())
    return program.exitcode


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "kills"), [(1, 1), pytest.param(8, 2, marks=pytest.mark.faults)])
def test_run_killed_at_random_steps_resumes_bit_equal(uninterrupted, tmp_path, runs, kills, fault_seed):
    rng = random.Random(fault_seed)
    for number in range(runs):
        folder = tmp_path / str(number)
        kill_batches = [rng.randint(4, 12), rng.randint(1, 8)][:kills]
        print(f"killed while taking batches {kill_batches} of each process")  # pytest prints it if the test fails
        for batch in kill_batches:
            assert run_and_kill(folder, batch) == -signal.SIGKILL
        assert run_and_kill(folder, STEPS + 1) == 0
        assert_same_end(folder, uninterrupted)


class InterruptError(Exception):
    """Interrupts a run."""


class InterruptingBatches:
    """Batches that interrupt a run while batch number `last` is taken."""

    def __init__(self, last: int):
        self._batches, self._left = batches(4), last
        self.get_state = self._batches.get_state
        self.set_state = self._batches.set_state

    def __next__(self):
        self._left -= 1
        if self._left == 0:
            raise InterruptError
        return next(self._batches)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "saved"), repeat_for([(1, 0), (4, 3), (9, 8), (STEPS, 21)], kept=[(1, 0), (STEPS, 21)])
)
def test_run_interrupted_by_an_exception_resumes_bit_equal(uninterrupted, one_device, tmp_path, batch, saved):
    with contextlib.suppress(InterruptError):
        run(tmp_path, one_device, InterruptingBatches(batch))
    assert latest_step(tmp_path / "checkpoints") == saved
    run(tmp_path, one_device)
    assert_same_end(tmp_path, uninterrupted)


@pytest.mark.slow
def test_run_resumes_on_another_mesh_with_the_same_batches(uninterrupted, one_device, tmp_path):
    with contextlib.suppress(InterruptError):
        run(tmp_path, one_device, InterruptingBatches(11))
    eight = make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    run(tmp_path, eight)
    (params, step), (expected, _) = final_params(tmp_path), final_params(uninterrupted)
    assert step == STEPS
    scale = max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(expected))
    # Each of the 14 updates adds the rounding error of its gradient.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=14 * GRADIENT * scale), params, expected)
    for found, line in zip(metrics_lines(tmp_path), metrics_lines(uninterrupted), strict=True):
        assert found["step"] == line["step"]
        assert found.get("tokens") == line.get("tokens")  # the same batches
        np.testing.assert_allclose(found.get("loss", 0.0), line.get("loss", 0.0), rtol=1e-4)


@pytest.mark.slow
def test_incomplete_checkpoint_is_ignored(uninterrupted, one_device, tmp_path):
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    last = tmp_path / "checkpoints" / str(STEPS)
    shutil.copytree(last, last.with_name("20.orbax-checkpoint-tmp"))  # will be removed
    last.rename(last.with_name(last.name + ".orbax-checkpoint-tmp"))  # must not count as the last checkpoint
    run(tmp_path, one_device)
    assert_same_end(tmp_path, uninterrupted)
