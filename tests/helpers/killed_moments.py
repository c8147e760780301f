"""Random moments at which runs are killed, spread over the whole run, and the killing itself.

The clock of a moment is the run's own progress, so that moments stay where they were drawn on a machine that is busy
with something else. A run has three phases: it starts (imports, devices, tracing), samples (rows appear in new parts)
and ends (merging, manifest). A moment is a share of one of them: of the time that starting took in a run that nobody
killed; of the rows that are still missing, and between two batches of the time that one takes; of the time that
ending took. Moments are drawn one from each of equal slices of (0, 1), which are the phases one after the other.
"""

import itertools
import os
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from tests.helpers.killed_disk import Disk, check_kept, look
from tests.helpers.killed_sampling import BATCH, SAMPLES, TOTAL, Place

PHASES = (("starting", 0.2), ("sampling", 0.7), ("ending", 0.1))
LOOK = 0.004  # seconds between two looks at the folder


class Moment(NamedTuple):
    """A phase, and a share of it; of a run that was killed, the share of rows that were there."""

    phase: str
    share: float


class Pace(NamedTuple):
    """Seconds that the phases of a run take; `batch` is one batch of sampling."""

    starting: float
    batch: float
    ending: float


def moments(count: int, rng: random.Random) -> list[Moment]:
    drawn = [_moment((i + rng.random()) / count) for i in range(count)]
    rng.shuffle(drawn)
    return drawn


def _moment(at: float) -> Moment:
    """The moment at this share of the whole run."""
    for phase, length in PHASES[:-1]:
        if at < length:
            return Moment(phase, at / length)
        at -= length
    return Moment(PHASES[-1][0], at / PHASES[-1][1])


class Watch:
    """Rows that a run has written, seen from outside: the lines of whole parts, each part read once."""

    def __init__(self, place: Place, before: Disk):
        self._parts, self._known = place.folder / "parts", {path.rpartition("/")[2] for path in before.files}
        self.rows = len(before.rows)

    def until(self, rows: float, processes: Sequence[BaseProcess]) -> None:
        """Returns when so many rows are there, or no process is alive."""
        while self._look() < rows and any(process.is_alive() for process in processes):
            time.sleep(LOOK)

    def _look(self) -> int:
        try:
            for name in set(os.listdir(self._parts)) - self._known:
                self._known.add(name)
                if name.endswith(".jsonl"):
                    self.rows += (self._parts / name).read_bytes().count(b"\n")
        except FileNotFoundError:  # nothing yet, or everything is merged; whoever waits sees that the run ends
            pass
        return self.rows


def measure(processes: Sequence[BaseProcess], place: Place) -> Pace:
    """The pace of a run that starts from nothing and is left alone."""
    watch, times = Watch(place, Disk({}, {})), [time.monotonic()]
    for rows in (1, TOTAL):
        watch.until(rows, processes)
        times.append(time.monotonic())
    for process in processes:
        process.join()
    times.append(time.monotonic())
    starting, sampling, ending = (b - a for a, b in itertools.pairwise(times))
    return Pace(starting, sampling * BATCH * SAMPLES / TOTAL, ending)


def await_moment(moment: Moment, processes: Sequence[BaseProcess], place: Place, before: Disk, pace: Pace) -> None:
    if moment.phase == "starting":
        time.sleep(moment.share * pace.starting)
        return
    watch = Watch(place, before)
    if moment.phase == "ending":
        watch.until(TOTAL, processes)
        time.sleep(moment.share * pace.ending)
        return
    batches = moment.share * (TOTAL - len(before.rows)) / (BATCH * SAMPLES)
    watch.until(len(before.rows) + max(1, int(batches) * BATCH * SAMPLES), processes)
    time.sleep(batches % 1 * pace.batch)


def kill(processes: Sequence[BaseProcess], victims: Sequence[int], mercy: float = 0.0) -> bool:
    """Kills the victims, and the others `mercy` seconds later; False if the victims had ended before."""
    for host in victims:
        processes[host].kill()
    for host in victims:
        processes[host].join()
    for process in processes:
        process.join(timeout=mercy)
        process.kill()
        process.join()
    return any(processes[host].exitcode == -9 for host in victims)


def kill_often(
    place_of: Callable[[int], Place],
    start: Callable[[Place], Sequence[BaseProcess]],
    finish: Callable[[Place], object],
    drawn: Sequence[Moment],
    pace: Pace,
    kill: Callable[[Sequence[BaseProcess]], bool] = lambda processes: kill(processes, [0]),
    most: int = 8,
) -> list[Moment]:
    """Kills runs at these moments, up to `most` of them in one folder after another; every folder is finished then.

    A run that ended before its moment does not count; the moment comes again, somewhat earlier. Returns where the
    killed runs were, as the folder told afterwards.
    """
    waiting, hits = deque(drawn), []
    for number in range(len(drawn) * 3):
        place = place_of(number)
        for _ in range(most):
            before = look(place.folder)
            if not waiting or len(before.rows) == TOTAL:
                break
            processes, moment = start(place), waiting.popleft()
            await_moment(moment, processes, place, before, pace)
            killed = kill(processes)
            after = look(place.folder)
            check_kept(before, after, TOTAL)
            if killed:
                hits.append(Moment(_phase(before, after), len(after.rows) / TOTAL))
            else:
                waiting.append(moment._replace(share=0.7 * moment.share))
        finish(place)
        if not waiting:
            return hits
    raise AssertionError(f"moments that always came too late: {waiting}")


def _phase(before: Disk, after: Disk) -> str:
    if len(after.rows) == TOTAL:
        return "ending"
    return "sampling" if len(after.rows) > len(before.rows) else "starting"
