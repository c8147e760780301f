"""After kill -9 of sampling on one or two hosts, the files equal those of an uninterrupted run.

Kills the whole sample job at random points (tests/helpers/kill_sample_job.py). Random points cannot hit every gap
between two system calls, so a small run on two hosts is also killed at every file operation
(tests/helpers/kill_two_hosts.py; for one host see tests/rationales/test_store.py).
"""

import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.kill_points import (
    KillPoint,
    draw_kill_points,
    kill,
    kill_at_points,
    measure_durations,
    wait_for_kill_point,
)
from tests.helpers.kill_sample_job import TOTAL, RunPaths, check_complete, expected_keys, finish, start, wait
from tests.helpers.kill_snapshots import check_preserved, take_snapshot

pytestmark = pytest.mark.slow

KILLS_ONE_HOST, KILLS_TWO_HOSTS = 50, 12


def test_two_writing_hosts_killed_at_every_step_and_at_random_lose_nothing(tmp_path):
    command = [sys.executable, "-m", "tests.helpers.kill_two_hosts", str(tmp_path), "50"]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    steps = [int(number) for number in result.stdout.split()]
    assert len(steps) == 4
    assert min(steps[:2]) > 50, "host 0 writes and merges"
    assert min(steps[2:]) > 15, "host 1 writes"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Returns the folder, the common snapshot and the durations of uninterrupted runs on one and on two hosts."""
    root = tmp_path_factory.mktemp("uninterrupted")
    snapshots, durations = [], []
    for hosts in (1, 2):
        finish(RunPaths(root / f"fill{hosts}", root / "cache"), hosts, fill_cache=True)
        paths = RunPaths(root / f"complete{hosts}", root / "cache")
        processes = start(paths, hosts)
        durations.append(measure_durations(processes, paths))
        wait(processes, paths)
        check_complete(paths, take_snapshot(paths.folder), expected_keys())
        snapshots.append(take_snapshot(paths.folder))
    assert snapshots[0] == snapshots[1], "one host and two generate the same"
    return root, snapshots[0], durations


def test_one_host_killed_at_fifty_random_points_loses_nothing(uninterrupted, tmp_path):
    root, snapshot, durations = uninterrupted
    keys = expected_keys()

    def kill_runs(seed: int) -> list[KillPoint]:
        def paths_of(number: int) -> RunPaths:
            return RunPaths(tmp_path / f"{seed}.{number}", root / "cache")

        def finish_and_check(paths):
            finish(paths)
            check_complete(paths, snapshot, keys)

        points = draw_kill_points(KILLS_ONE_HOST // 2, random.Random(seed))
        return kill_at_points(paths_of, start, finish_and_check, points, durations[0])

    with ThreadPoolExecutor(2) as pool:
        hits = [hit for hits in pool.map(kill_runs, range(2)) for hit in hits]
    phases = Counter(hit.phase for hit in hits)
    assert phases.total() == KILLS_ONE_HOST
    assert phases["sampling"] >= 20, phases
    assert set(phases) == {"starting", "sampling", "ending"}, phases
    quarters = {int(4 * hit.share) for hit in hits if hit.phase == "sampling"}
    assert quarters == {0, 1, 2, 3}, f"kills must hit all quarters of the rows; found {sorted(hits)}"


def test_two_hosts_killed_at_random_points_lose_nothing(uninterrupted, tmp_path):
    """Kills one host or both. A remaining host must exit by itself, or is killed after a short grace period."""
    root, snapshot, durations = uninterrupted
    keys, rng = expected_keys(), random.Random(2)

    def kill_one_or_both(processes) -> bool:
        return kill(processes, rng.choice([[0], [1], [0, 1]]), grace=rng.uniform(0, 0.2))

    def finish_and_check(paths):
        finish(paths, 2)
        check_complete(paths, snapshot, keys)

    hits = kill_at_points(
        lambda i: RunPaths(tmp_path / str(i), root / "cache"),
        lambda paths: start(paths, 2),
        finish_and_check,
        draw_kill_points(KILLS_TWO_HOSTS, rng),
        durations[1],
        kill_one_or_both,
    )
    assert len(hits) == KILLS_TWO_HOSTS
    assert sum(hit.phase == "sampling" for hit in hits) >= KILLS_TWO_HOSTS // 3, hits


@pytest.mark.parametrize("victim", [0, 1])
def test_host_exits_by_itself_if_the_other_is_killed(uninterrupted, tmp_path, victim):
    root, snapshot, durations = uninterrupted
    paths = RunPaths(tmp_path / "run", root / "cache")
    processes = start(paths, 2)
    wait_for_kill_point(KillPoint("sampling", 0.4), processes, paths, take_snapshot(paths.folder), durations[1])
    processes[victim].kill()
    other = processes[1 - victim]
    other.join(timeout=90)
    code = other.exitcode
    kill(processes, [0, 1])
    assert code, f"exit status {code}: the remaining host succeeded, or did not exit"
    assert 0 < len(take_snapshot(paths.folder).rows) < len(snapshot.rows)
    finish(paths, 2)
    check_complete(paths, snapshot, expected_keys())


@pytest.mark.parametrize("hosts", [(1, 2, 1), (2, 1, 2)])
def test_run_resumes_with_another_number_of_hosts(uninterrupted, tmp_path, hosts):
    root, snapshot, durations = uninterrupted
    paths = RunPaths(tmp_path / "run", root / "cache")
    for number in hosts[:-1]:
        before = take_snapshot(paths.folder)
        processes = start(paths, number)
        wait_for_kill_point(KillPoint("sampling", 0.4), processes, paths, before, durations[number - 1])
        assert kill(processes, range(number))
        after = take_snapshot(paths.folder)
        check_preserved(before, after, TOTAL)
        assert len(before.rows) < len(after.rows) < len(snapshot.rows), "every run writes some of the rows"
    finish(paths, hosts[-1])
    check_complete(paths, snapshot, expected_keys())
