"""The whole chain of the world under random kills for a given time: results stay equal, memory and open files flat.

    python -m tests.faults.soak [--minutes=60] [--seed=0]

SIGKILL and SIGTERM end the processes of tests/configs/killed_chain.py at random moments; every run is compared with an
undisturbed one. Resident memory and open files are read every 0.2 s. Those of processes that end by themselves should
not grow from the first to the last, and those of one long training not with its updates. The last line is JSON.
"""

import argparse
import json
import os
import random
import re
import statistics
import tempfile
import threading
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from tests.helpers.killable_chain import ChainPaths, contents, finish, start, wait
from tests.helpers.random_kills import kill_at_random, measure_cpu_seconds

LONG_TRAINING = 2_000  # updates
MAX_KILLS = 20  # of one run


class Usage(NamedTuple):
    """What a process uses at a moment."""

    memory_mib: float
    open_files: int


def usage(pid: int) -> Usage | None:
    """Reads the usage of a process (Linux); None if it has ended."""
    try:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return found and Usage(int(found[1]) / 1024, len(os.listdir(f"/proc/{pid}/fd")))
    except (FileNotFoundError, ProcessLookupError):
        return None


class Monitor:
    """Follows processes until they end, each in a thread."""

    def __init__(self):
        self.highest: list[tuple[BaseProcess, list[Usage]]] = []  # every process, and the highest usage so far

    def start(self, paths: ChainPaths) -> BaseProcess:
        """Starts or resumes a run."""
        process, readings = start(paths), []
        self.highest.append((process, readings))
        threading.Thread(target=self._follow, args=(process.pid, readings), daemon=True).start()
        return process

    @staticmethod
    def _follow(pid: int, readings: list[Usage]) -> None:
        while found := usage(pid):
            highest = readings[0] if readings else found
            readings[:] = [Usage(max(highest.memory_mib, found.memory_mib), max(highest.open_files, found.open_files))]
            time.sleep(0.2)

    def summary(self) -> dict[str, Any]:
        """Medians of the first and the last half of the processes that ended by themselves."""
        known = [readings[0] for process, readings in self.highest if readings and process.exitcode == 0]
        halves = known[: len(known) // 2], known[len(known) // 2 :]
        return {
            field: {
                "first_half": round(statistics.median(getattr(each, field) for each in halves[0]), 1),
                "last_half": round(statistics.median(getattr(each, field) for each in halves[1]), 1),
                "highest": round(max(getattr(each, field) for each in known), 1),
            }
            for field in Usage._fields
        }


def soak(folder: Path, minutes: float, seed: int) -> dict[str, Any]:
    """Kills runs until the time is over. Raises AssertionError if one of them ends differently."""
    deadline, rng, monitor, ended = time.monotonic() + 60 * minutes, random.Random(seed), Monitor(), Counter[str]()
    calm = ChainPaths(folder / "calm", folder / "cache")
    finish(calm, fill_cache=True)
    expected, runs = contents(calm.workdir), 0
    cpu_seconds = measure_cpu_seconds(calm._replace(workdir=folder / "measured"))
    while time.monotonic() < deadline:
        paths = calm._replace(workdir=folder / str(runs))
        killed = kill_at_random(paths, rng, cpu_seconds, expected, MAX_KILLS, monitor.start)
        ended, runs = ended + killed, runs + 1
        print(f"run {runs}: {dict(killed)}", flush=True)
    return {
        "runs": runs,
        "processes": len(monitor.highest),
        "kills": ended.total(),
        "kills_by_step": dict(sorted(ended.items())),
        **monitor.summary(),
    }


def train_long(folder: Path) -> dict[str, Any]:
    """Usage after a quarter of the updates of a long training and at its end."""
    paths = ChainPaths(folder / "long", folder / "cache")
    training = "--config.students.student.training"
    flags = f"{training}.steps={LONG_TRAINING}", f"{training}.save_every=100", "--jobs=sample,build,train"
    process, readings = start(paths, flags=flags), dict[int, Usage]()
    while process.is_alive():
        if found := usage(process.pid):
            readings[len(paths.updates)] = found
        time.sleep(0.2)
    wait(process, paths)
    quarter, last = min(n for n in readings if n >= LONG_TRAINING / 4), max(readings)
    return {f"after_{n}_updates": readings[n]._asdict() for n in (quarter, last)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output = {"soak": vars(args), **soak(Path(folder), args.minutes, args.seed)}
        output["long_training"] = train_long(Path(folder))
    print(json.dumps(output))


if __name__ == "__main__":
    main()
