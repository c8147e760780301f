"""kill -9 on one host and on two: every row once, the bytes that nobody's killing would have left, nothing else.

At random moments of the whole sample job (tests/helpers/killed_sampling.py), and, since fifty moments cannot hit every
gap between two system calls, at every step on the disk of a small run on two hosts (tests/helpers/killed_hosts.py; one
host: tests/rationales/test_store.py).
"""

import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.killed_disk import check_kept, look
from tests.helpers.killed_moments import Moment, await_moment, kill, kill_often, measure, moments
from tests.helpers.killed_sampling import TOTAL, Place, all_names, check_whole, finish, start, wait

KILLS_ONE_HOST, KILLS_TWO_HOSTS = 50, 12


def test_every_step_and_fifty_random_moments_of_two_hosts_that_write(tmp_path):
    command = [sys.executable, "-m", "tests.helpers.killed_hosts", str(tmp_path), "50"]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    steps = [int(number) for number in result.stdout.split()]
    assert len(steps) == 4
    assert min(steps[:2]) > 50, "host 0 writes and merges"
    assert min(steps[2:]) > 15, "host 1 writes"


@pytest.fixture(scope="module")
def uncut(tmp_path_factory):
    """Runs that nobody kills, on one host and on two: where the compiled code is kept, the files, and both paces."""
    root = tmp_path_factory.mktemp("uncut")
    disks, paces = [], []
    for hosts in (1, 2):
        finish(Place(root / f"fills{hosts}", root / "cache"), hosts, fills=True)
        place = Place(root / f"whole{hosts}", root / "cache")
        processes = start(place, hosts)
        paces.append(measure(processes, place))
        wait(processes, place)
        check_whole(place, look(place.folder), all_names())
        disks.append(look(place.folder))
    assert disks[0] == disks[1], "one host and two say the same"
    return root, disks[0], paces


def test_fifty_random_moments_on_one_host(uncut, tmp_path):
    root, disk, paces = uncut
    names = all_names()

    def some(seed: int) -> list[Moment]:
        def finished(place):
            finish(place)
            check_whole(place, disk, names)

        drawn = moments(KILLS_ONE_HOST // 2, random.Random(seed))
        return kill_often(lambda i: Place(tmp_path / f"{seed}.{i}", root / "cache"), start, finished, drawn, paces[0])

    with ThreadPoolExecutor(2) as pool:
        hits = [hit for some_hits in pool.map(some, range(2)) for hit in some_hits]
    phases = Counter(hit.phase for hit in hits)
    assert phases.total() == KILLS_ONE_HOST
    assert phases["sampling"] >= 20, phases
    assert set(phases) == {"starting", "sampling", "ending"}, phases
    quarters = {int(4 * hit.share) for hit in hits if hit.phase == "sampling"}
    assert quarters == {0, 1, 2, 3}, f"kills have to be everywhere in the set, they were at {sorted(hits)}"


def test_random_moments_on_two_hosts(uncut, tmp_path):
    """One of the two is killed, or both; whoever is left loses its partner and has to end by itself, or dies too."""
    root, disk, paces = uncut
    names, rng = all_names(), random.Random(2)

    def one_or_both(processes) -> bool:
        return kill(processes, rng.choice([[0], [1], [0, 1]]), mercy=rng.uniform(0, 0.2))

    def finished(place):
        finish(place, 2)
        check_whole(place, disk, names)

    hits = kill_often(
        lambda i: Place(tmp_path / str(i), root / "cache"),
        lambda place: start(place, 2),
        finished,
        moments(KILLS_TWO_HOSTS, rng),
        paces[1],
        one_or_both,
    )
    assert len(hits) == KILLS_TWO_HOSTS
    assert sum(hit.phase == "sampling" for hit in hits) >= KILLS_TWO_HOSTS // 3, hits


@pytest.mark.parametrize("victim", [0, 1])
def test_a_host_that_loses_the_other_ends_by_itself(uncut, tmp_path, victim):
    root, disk, paces = uncut
    place = Place(tmp_path / "run", root / "cache")
    processes = start(place, 2)
    await_moment(Moment("sampling", 0.4), processes, place, look(place.folder), paces[1])
    processes[victim].kill()
    other = processes[1 - victim]
    other.join(timeout=90)
    code = other.exitcode
    kill(processes, [0, 1])
    assert code, f"{code}: it ended well, or not at all"
    assert 0 < len(look(place.folder).rows) < len(disk.rows)
    finish(place, 2)
    check_whole(place, disk, all_names())


@pytest.mark.parametrize("hosts", [(1, 2, 1), (2, 1, 2)])
def test_a_run_goes_on_with_another_number_of_hosts(uncut, tmp_path, hosts):
    root, disk, paces = uncut
    place = Place(tmp_path / "run", root / "cache")
    for number in hosts[:-1]:
        before = look(place.folder)
        processes = start(place, number)
        await_moment(Moment("sampling", 0.4), processes, place, before, paces[number - 1])
        assert kill(processes, range(number))
        after = look(place.folder)
        check_kept(before, after, TOTAL)
        assert len(before.rows) < len(after.rows) < len(disk.rows), "each of them has written some of the rows"
    finish(place, hosts[-1])
    check_whole(place, disk, all_names())
