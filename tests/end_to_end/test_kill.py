"""After SIGKILL and SIGTERM at any moment, the same command ends with the rows, bytes and parameters of a calm run."""

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.configs.killed_chain import STEPS
from tests.helpers.killable_chain import (
    ChainPaths,
    check_equal,
    check_repeated_updates,
    contents,
    finish,
    send,
    start,
)
from tests.helpers.random_kills import kill_at_random, measure_cpu_seconds

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("FAULTS_KILLS", "100"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A folder for compiled programs."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache) -> dict[str, object]:
    """The contents of a run that is not disturbed, which also fills the cache."""
    paths = ChainPaths(tmp_path_factory.mktemp("undisturbed") / "run", cache)
    finish(paths, fill_cache=True)
    return contents(paths.workdir)


def kill_when(is_time: Callable[[], bool], number: signal.Signals, paths: ChainPaths) -> str | None:
    """Runs the chain until `is_time()`, and then sends it a signal. Returns the step that it ended."""
    process = start(paths)
    while process.is_alive() and not is_time():
        time.sleep(0.005)
    return send(number, process, paths)


def test_chain_killed_in_sampling_and_terminated_in_training_ends_equal(undisturbed, cache, tmp_path):
    paths = ChainPaths(tmp_path / "run", cache)
    parts = paths.workdir / "rationales/sampled/parts"
    checkpoints = paths.workdir / "students/student/checkpoints"
    ended = kill_when(lambda: len(list(parts.glob("*.jsonl"))) > 2, signal.SIGKILL, paths)
    assert ended == "sample sampled"
    ended = kill_when(lambda: any(path.name.isdigit() for path in checkpoints.glob("*")), signal.SIGTERM, paths)
    assert ended == "train student"
    made = len(paths.updates)
    assert STEPS + 4 <= made < 2 * STEPS, "in the middle of the second training"
    finish(paths)
    check_repeated_updates(paths.updates, [made], STEPS)
    check_equal(paths.workdir, undisturbed)


@pytest.mark.faults
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="CPU times are read from /proc (Linux)")
def test_chain_killed_and_terminated_at_random_ends_equal(undisturbed, cache, tmp_path, fault_seed, record_property):
    rng, ended = random.Random(fault_seed), Counter()
    cpu_seconds = measure_cpu_seconds(ChainPaths(tmp_path / "measured", cache))
    for run in itertools.count():
        if ended.total() == KILLS:
            break
        paths = ChainPaths(tmp_path / str(run), cache)
        ended += kill_at_random(paths, rng, cpu_seconds, undisturbed, KILLS - ended.total())
    record_property("kills", str(dict(ended)))
    print(f"{KILLS} kills of {run} runs: {dict(ended)}")
