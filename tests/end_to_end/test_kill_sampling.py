"""After kill -9 of sampling on one or two hosts, the files equal those of an uninterrupted run.

Kills the whole sample job in every phase, and in `make test-faults` at random points
(tests/helpers/kill_sample_job.py). These points cannot hit every gap between two system calls, so a small run on two
hosts is also killed at every file operation (tests/helpers/kill_two_hosts.py; for one host see
tests/rationales/test_store.py).
"""

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, cycle, repeat
from pathlib import Path

import pytest

from tests.helpers.kill_points import (
    CHOSEN_POINTS,
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


@pytest.mark.parametrize("random_kills", [5, pytest.param(200, marks=pytest.mark.faults)])
def test_two_writing_hosts_killed_at_every_step_and_at_random_lose_nothing(tmp_path, random_kills, fault_seed):
    numbers = str(random_kills), str(fault_seed)
    command = [sys.executable, "-m", "tests.helpers.kill_two_hosts", str(tmp_path), *numbers]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    steps = [int(number) for number in result.stdout.split()]
    assert len(steps) == 4
    assert min(steps[:2]) > 50, "host 0 writes and merges"
    assert min(steps[2:]) > 15, "host 1 writes"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Returns the compilation cache, the snapshot and the durations of uninterrupted runs on one and on two hosts."""
    root = tmp_path_factory.mktemp("uninterrupted")
    cache, snapshots, durations = root / "cache", [], []
    for hosts in (1, 2):
        finish(RunPaths(root / f"fill{hosts}", cache), hosts, fill_cache=True)
        paths = RunPaths(root / f"complete{hosts}", cache)
        processes = start(paths, hosts)
        durations.append(measure_durations(processes, paths))
        wait(processes, paths)
        check_complete(paths, take_snapshot(paths.folder), expected_keys())
        snapshots.append(take_snapshot(paths.folder))
    assert snapshots[0] == snapshots[1], "one host and two generate the same"
    return cache, snapshots[0], durations


def kill_one_host(uninterrupted, root: Path, points: Sequence[KillPoint]) -> list[KillPoint]:
    """Kills runs at these points, checks what they leave and what a finished run has, and returns the points hit."""
    cache, snapshot, durations = uninterrupted

    def finish_and_check(paths: RunPaths) -> None:
        finish(paths)
        check_complete(paths, snapshot, expected_keys())

    return kill_at_points(lambda n: RunPaths(root / str(n), cache), start, finish_and_check, points, durations[0])


def check_spread(hits: list[KillPoint]) -> Counter[str]:
    """Asserts that there are hits in all phases and in all quarters of the rows. Returns the number in each phase."""
    phases = Counter(hit.phase for hit in hits)
    assert set(phases) == {"starting", "sampling", "ending"}, phases
    quarters = {int(4 * hit.share) for hit in hits if hit.phase == "sampling"}
    assert quarters == {0, 1, 2, 3}, f"kills must hit all quarters of the rows; found {sorted(hits)}"
    return phases


@pytest.mark.faults
def test_one_host_killed_in_every_phase_loses_nothing(uninterrupted, tmp_path):
    assert check_spread(kill_one_host(uninterrupted, tmp_path, CHOSEN_POINTS)).total() == len(CHOSEN_POINTS)


@pytest.mark.faults
def test_one_host_killed_at_fifty_random_points_loses_nothing(uninterrupted, tmp_path, fault_seed):
    def kill_runs(number: int) -> list[KillPoint]:
        points = draw_kill_points(KILLS_ONE_HOST // 2, random.Random(f"{fault_seed} {number}"))
        return kill_one_host(uninterrupted, tmp_path / str(number), points)

    with ThreadPoolExecutor(2) as pool:
        phases = check_spread([hit for hits in pool.map(kill_runs, range(2)) for hit in hits])
    assert phases.total() == KILLS_ONE_HOST
    assert phases["sampling"] >= 20, phases


def kill_two_hosts(
    uninterrupted, root: Path, points: Sequence[KillPoint], victims: Iterable[list[int]], graces: Iterable[float]
) -> list[KillPoint]:
    """Kills one host or both. A remaining host must exit by itself, or is killed after a short grace period."""
    cache, snapshot, durations = uninterrupted
    victims, graces = iter(victims), iter(graces)

    def finish_and_check(paths: RunPaths) -> None:
        finish(paths, 2)
        check_complete(paths, snapshot, expected_keys())

    return kill_at_points(
        lambda number: RunPaths(root / str(number), cache),
        lambda paths: start(paths, 2),
        finish_and_check,
        points,
        durations[1],
        lambda processes: kill(processes, next(victims), grace=next(graces)),
    )


def test_two_hosts_killed_in_turn_and_together_lose_nothing(uninterrupted, tmp_path):
    points = [KillPoint("starting", 0.5), KillPoint("sampling", 0.3), KillPoint("sampling", 0.5)]
    hits = kill_two_hosts(uninterrupted, tmp_path, points, cycle([[0], [0, 1], [1]]), repeat(0.1))
    assert [hit.phase for hit in hits] == ["starting", "sampling", "sampling"]


@pytest.mark.faults
def test_two_hosts_killed_at_random_points_lose_nothing(uninterrupted, tmp_path, fault_seed):
    rng = random.Random(fault_seed)
    points = draw_kill_points(KILLS_TWO_HOSTS, rng)
    victims = (rng.choice([[0], [1], [0, 1]]) for _ in count())
    hits = kill_two_hosts(uninterrupted, tmp_path, points, victims, (rng.uniform(0, 0.2) for _ in count()))
    assert len(hits) == KILLS_TWO_HOSTS
    assert sum(hit.phase == "sampling" for hit in hits) >= KILLS_TWO_HOSTS // 3, hits


@pytest.mark.parametrize("victim", [0, 1])
def test_host_exits_by_itself_if_the_other_is_killed(uninterrupted, tmp_path, victim):
    cache, snapshot, durations = uninterrupted
    paths = RunPaths(tmp_path / "run", cache)
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


@pytest.mark.parametrize("hosts", [(2, 1, 2), pytest.param((1, 2, 1), marks=pytest.mark.faults)])
def test_run_resumes_with_another_number_of_hosts(uninterrupted, tmp_path, hosts):
    cache, snapshot, durations = uninterrupted
    paths = RunPaths(tmp_path / "run", cache)
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
