"""A run of the chain that is killed and terminated at random moments, and must end like one that is not disturbed.

A moment is a number of seconds of CPU time, which does not depend on the load of the machine (Linux).
"""

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.configs.killed_chain import STEPS
from tests.helpers import killable_chain
from tests.helpers.killable_chain import ChainPaths, check_equal, check_repeated_updates, send, wait


def kill_at_random(
    paths: ChainPaths,
    rng: random.Random,
    cpu_seconds: float,
    expected: dict[str, object],
    max_kills: int,
    start: Callable[[ChainPaths], BaseProcess] = killable_chain.start,
) -> Counter[str]:
    """Starts a run again after every signal, lets it end, and removes it.

    Args:
      paths: paths of the run.
      rng: draws the signals and their moments.
      cpu_seconds: CPU time of the undisturbed run.
      expected: its contents, with which those of this run are compared.
      max_kills: number of signals after which the run is not disturbed any more.
      start: starts or resumes the run.

    Returns:
      The signals and the steps that they ended, such as "SIGTERM in train student".
    """
    ended, ends = Counter[str](), []
    while ended.total() < max_kills:
        process, number = start(paths), rng.choice([signal.SIGKILL, signal.SIGTERM])
        moment = rng.uniform(0, cpu_seconds / 2)  # so that a run is disturbed a few times; it resumes at later steps
        while process.is_alive() and used_cpu_seconds(process) < moment:
            time.sleep(0.01)
        step = send(number, process, paths)
        if step is None:
            break
        ended[f"{number.name} in {step}"] += 1
        if number == signal.SIGTERM:
            ends.append(len(paths.updates))
    wait(start(paths), paths)
    check_repeated_updates(paths.updates, ends, STEPS)
    check_equal(paths.workdir, expected)
    shutil.rmtree(paths.workdir)
    shutil.rmtree(paths.output)
    return ended


def measure_cpu_seconds(paths: ChainPaths) -> float:
    """Runs the chain and returns its CPU time."""
    process, used = killable_chain.start(paths), 0.0
    while process.is_alive():
        used = max(used, used_cpu_seconds(process))
        time.sleep(0.05)
    wait(process, paths)
    return used


def used_cpu_seconds(process: BaseProcess) -> float:
    """The CPU time of a process so far; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
