"""Runs of two and four processes: a notice of preemption or the death of one ends all, and the run resumes equal."""

import os
import re
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import pytest

from scotd_jax.running import PREEMPTED
from scotd_jax.training.metrics import read_metrics
from tests.configs.killed_chain import STEPS
from tests.helpers.killable_chain import ChainPaths, check_equal, contents, finish_processes, start_processes

pytestmark = [pytest.mark.slow, pytest.mark.faults]

Started = list[tuple[BaseProcess, ChainPaths]]


# Each of two pairs of processes holds one copy of every model.
PAIRS = ("--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.sampling_mesh.tensor=2")


@pytest.fixture(scope="module", params=[(2, ()), (4, ()), (4, PAIRS)], ids=["2", "4", "4 in pairs"])
def undisturbed(request, tmp_path_factory) -> tuple[int, ChainPaths, dict[str, object]]:
    """The number of processes, and the paths and contents of a run that is not disturbed."""
    count, flags = request.param
    folder = tmp_path_factory.mktemp(f"undisturbed{count}")
    paths = ChainPaths(folder / "run", folder / "cache", flags=flags)
    finish_processes(paths, count, fill_cache=True)
    return count, paths, contents(paths.workdir)


def start_until(is_time: Callable[[ChainPaths], bool], paths: ChainPaths, count: int) -> Started:
    """Starts the processes of a run, and waits until it is time or one of them has ended."""
    started = start_processes(paths, count, pause=0.1)
    while all(process.is_alive() for process, _ in started) and not is_time(started[0][1]):
        time.sleep(0.005)
    return started


def end(started: Started) -> list[int | None]:
    """Waits until all processes have ended. Returns how; None for one that has not ended after three minutes."""
    deadline = time.monotonic() + 180
    for process, _ in started:
        process.join(max(0, deadline - time.monotonic()))
    found = [process.exitcode for process, _ in started]
    for process, _ in started:
        process.kill()
        process.join()
    return found


def is_sampling(paths: ChainPaths) -> bool:
    return len(list(paths.workdir.glob("rationales/sampled/parts/*.jsonl"))) > 2


def is_training(paths: ChainPaths) -> bool:
    """Whether the student has a checkpoint."""
    return any(path.name.isdigit() for path in paths.workdir.glob("students/student/checkpoints/*"))


def is_evaluating_on_dev(paths: ChainPaths) -> bool:
    """Whether the update of the student has been made after which it is evaluated."""
    return len(paths.updates) == STEPS + STEPS // 2


@pytest.mark.parametrize(("is_time", "victim"), [(is_sampling, -1), (is_training, 0), (is_evaluating_on_dev, -1)])
def test_all_processes_save_the_same_update_after_sigterm_to_one(undisturbed, tmp_path, is_time, victim):
    count, paths, expected = undisturbed
    paths = paths._replace(workdir=tmp_path / "run")
    started = start_until(is_time, paths, count)
    os.kill(started[victim][0].pid, signal.SIGTERM)
    assert end(started) == [PREEMPTED] * count, [own.log for _, own in started]
    saved = [
        re.findall(r"ended by SIGTERM in .*train student.*of update (\d+) is saved", own.log) for _, own in started
    ]
    assert len(saved[0]) == 1
    assert saved == [saved[0]] * count
    made = [own.updates for _, own in started]
    assert made == [made[0]] * count
    assert made[0][-1] == int(saved[0][0]) < STEPS, "in the middle of the second training"
    rows = read_metrics(paths.workdir / "students/student/metrics.jsonl")
    is_evaluated = any("dev_accuracy" in row for row in rows)
    assert is_evaluated == (made[0][-1] >= STEPS // 2), "an evaluation ends before the end of the run"
    if is_time is is_sampling:
        assert made[0][-1] < 4, "the training that follows ends at once"
    if is_time is is_evaluating_on_dev:
        assert is_evaluated
    for own in finish_processes(paths, count):
        assert own.updates == 2 * list(range(1, STEPS + 1)), "no update is repeated"
    check_equal(paths.workdir, expected)


@pytest.mark.parametrize(("is_time", "victim"), [(is_sampling, -1), (is_training, 0)])
def test_others_end_with_a_message_after_sigkill_of_one(undisturbed, tmp_path, is_time, victim):
    count, paths, expected = undisturbed
    paths = paths._replace(workdir=tmp_path / "run")
    started = start_until(is_time, paths, count)
    started[victim][0].kill()
    found = end(started)
    assert found.pop(victim) == -signal.SIGKILL
    assert found == [-signal.SIGABRT] * (count - 1)
    for process, own in started:
        if process is not started[victim][0]:
            assert "This most likely indicates that another task died" in own.log
    finish_processes(paths, count)
    check_equal(paths.workdir, expected)
