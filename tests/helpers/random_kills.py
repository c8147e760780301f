"""A run of the chain that is killed and terminated at random moments, and must end like one that is not disturbed."""

import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess

from tests.configs.killed_chain import STEPS
from tests.helpers import killable_chain
from tests.helpers.killable_chain import ChainPaths, check_equal, check_repeated_updates, send, wait


def kill_at_random(
    paths: ChainPaths,
    rng: random.Random,
    duration: float,
    expected: dict[str, object],
    max_kills: int,
    start: Callable[[ChainPaths], BaseProcess] = killable_chain.start,
) -> Counter[str]:
    """Starts a run again after every signal, lets it end, and removes it.

    Args:
      paths: paths of the run.
      rng: draws the signals and their moments.
      duration: seconds that the undisturbed run takes.
      expected: its contents, with which those of this run are compared.
      max_kills: number of signals after which the run is not disturbed any more.
      start: starts or resumes the run.

    Returns:
      The signals and the steps that they ended, such as "SIGTERM in train student".
    """
    ended, ends = Counter[str](), []
    while ended.total() < max_kills:
        process, number = start(paths), rng.choice([signal.SIGKILL, signal.SIGTERM])
        process.join(rng.uniform(0, duration / 2))  # so that a run is disturbed a few times; it resumes at later steps
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
