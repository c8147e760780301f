"""Kills runs at points that are spread over the whole run, chosen or random.

Points are positions in the progress of a run, so that they do not depend on the load of the machine. A run has three
phases: starting (imports, devices, tracing), sampling (rows appear in new parts) and ending (merge, manifest). In
starting and ending, a point is a fraction of the measured duration of the phase. In sampling, it is a fraction of the
missing rows; the position within a batch is a fraction of the measured duration of a batch. PHASES lists the fraction
of a run that each phase takes. For random points, the run is divided into equal slices, and one point is drawn from
each.
"""

import itertools
import os
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from tests.helpers.kill_sample_job import BATCH, SAMPLES, TOTAL, RunPaths
from tests.helpers.kill_snapshots import Snapshot, check_preserved, take_snapshot

PHASES = (("starting", 0.2), ("sampling", 0.7), ("ending", 0.1))
POLL_SECONDS = 0.004


class KillPoint(NamedTuple):
    """A phase and a fraction of it. For a run that was killed, `share` is the fraction of all rows that is on disk."""

    phase: str
    share: float


class Durations(NamedTuple):
    """Seconds that the phases of a run take; `batch` is one batch of sampling."""

    starting: float
    batch: float
    ending: float


# For a work directory whose run is killed at all of them in this order: every phase, and every quarter of the rows.
CHOSEN_POINTS = [
    KillPoint("starting", 0.3),
    KillPoint("sampling", 0.15),
    KillPoint("sampling", 0.3),
    KillPoint("sampling", 0.4),
    KillPoint("sampling", 0.6),
    KillPoint("ending", 0.3),
]


def draw_kill_points(count: int, rng: random.Random) -> list[KillPoint]:
    """Returns one random point of each of `count` equal slices of a run, in random order."""
    points = [_kill_point((i + rng.random()) / count) for i in range(count)]
    rng.shuffle(points)
    return points


def _kill_point(position: float) -> KillPoint:
    """Returns the point at this fraction of the whole run."""
    for phase, length in PHASES[:-1]:
        if position < length:
            return KillPoint(phase, position / length)
        position -= length
    return KillPoint(PHASES[-1][0], position / PHASES[-1][1])


class RowCounter:
    """Counts the rows in the complete parts of a run, as another process; reads each part once."""

    def __init__(self, paths: RunPaths, before: Snapshot):
        self._parts, self._counted = paths.folder / "parts", {path.rpartition("/")[2] for path in before.files}
        self.rows = len(before.rows)

    def wait_for(self, rows: float, processes: Sequence[BaseProcess]) -> None:
        """Waits until this many rows exist or no process is alive."""
        while self._count() < rows and any(process.is_alive() for process in processes):
            time.sleep(POLL_SECONDS)

    def _count(self) -> int:
        try:
            for name in set(os.listdir(self._parts)) - self._counted:
                self._counted.add(name)
                if name.endswith(".jsonl"):
                    self.rows += (self._parts / name).read_bytes().count(b"\n")
        except FileNotFoundError:  # nothing is written yet, or all parts are merged
            pass
        return self.rows


def measure_durations(processes: Sequence[BaseProcess], paths: RunPaths) -> Durations:
    """Returns the durations of a run with an empty work directory that is not killed."""
    counter, times = RowCounter(paths, Snapshot({}, {})), [time.monotonic()]
    for rows in (1, TOTAL):
        counter.wait_for(rows, processes)
        times.append(time.monotonic())
    for process in processes:
        process.join()
    times.append(time.monotonic())
    starting, sampling, ending = (b - a for a, b in itertools.pairwise(times))
    return Durations(starting, sampling * BATCH * SAMPLES / TOTAL, ending)


def wait_for_kill_point(
    point: KillPoint, processes: Sequence[BaseProcess], paths: RunPaths, before: Snapshot, durations: Durations
) -> None:
    """Waits until a run that began with the files of `before` reaches the point, or ends."""
    if point.phase == "starting":
        time.sleep(point.share * durations.starting)
        return
    counter = RowCounter(paths, before)
    if point.phase == "ending":
        counter.wait_for(TOTAL, processes)
        time.sleep(point.share * durations.ending)
        return
    batches = point.share * (TOTAL - len(before.rows)) / (BATCH * SAMPLES)
    counter.wait_for(len(before.rows) + max(1, int(batches) * BATCH * SAMPLES), processes)
    time.sleep(batches % 1 * durations.batch)


def kill(processes: Sequence[BaseProcess], victims: Sequence[int], grace: float = 0.0) -> bool:
    """Kills the victims, and the others `grace` seconds later; returns False if all victims had already ended."""
    for host in victims:
        processes[host].kill()
    for host in victims:
        processes[host].join()
    for process in processes:
        process.join(timeout=grace)
        process.kill()
        process.join()
    return any(processes[host].exitcode == -9 for host in victims)


def kill_at_points(
    paths_of: Callable[[int], RunPaths],
    start: Callable[[RunPaths], Sequence[BaseProcess]],
    finish: Callable[[RunPaths], object],
    points: Sequence[KillPoint],
    durations: Durations,
    kill: Callable[[Sequence[BaseProcess]], bool] = lambda processes: kill(processes, [0]),  # the function above
    max_kills: int = 8,
) -> list[KillPoint]:
    """Kills runs at these points, up to `max_kills` per work directory, and finishes every work directory.

    If a run ends before its point, a later run is killed somewhat earlier. Returns the points at which runs were
    killed, determined from the rows on disk.
    """
    remaining, reached = deque(points), []
    for number in range(len(points) * 3):
        paths = paths_of(number)
        for _ in range(max_kills):
            before = take_snapshot(paths.folder)
            if not remaining or len(before.rows) == TOTAL:
                break
            processes, point = start(paths), remaining.popleft()
            wait_for_kill_point(point, processes, paths, before, durations)
            killed = kill(processes)
            after = take_snapshot(paths.folder)
            check_preserved(before, after, TOTAL)
            if killed:
                reached.append(KillPoint(_phase(before, after), len(after.rows) / TOTAL))
            else:
                remaining.append(point._replace(share=0.7 * point.share))
        finish(paths)
        if not remaining:
            return reached
    raise AssertionError(f"kill points that always came too late: {remaining}")


def _phase(before: Snapshot, after: Snapshot) -> str:
    if len(after.rows) == TOTAL:
        return "ending"
    return "sampling" if len(after.rows) > len(before.rows) else "starting"
