"""The chain of tests/configs/killed_chain.py as a process that starts in about a second, so that a test can kill it.

The process is a fork that runs the unmodified command line with compiled programs from a cache. It appends the number
of every update that it makes to a file. A run may also have several processes, which share the work directory. With
`pause`, every update takes at least so many seconds: a notice of preemption reaches several processes within a second.
"""

import json
import os
import re
import runpy
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from scotd_jax.jobs.inspection.integrity import verify
from tests.configs.killed_chain import STEPS
from tests.helpers.cli import start_program
from tests.helpers.compilation_cache import use_compilation_cache
from tests.helpers.network import free_port
from tests.helpers.object_store import use_fsspec
from tests.helpers.training_fixtures import is_time

_BEGIN = "# a process begins"  # in the log


class ChainPaths(NamedTuple):
    """The paths of a run: work directory, compilation cache, and the URL of the work directory if it is in a bucket.

    With several processes at a time, those of process number `process`. `flags` are flags of the run.
    """

    workdir: Path
    cache: Path
    url: str = ""
    process: int = 0
    flags: tuple[str, ...] = ()

    @property
    def output(self) -> Path:
        """Folder of the output of this process whenever the run is started, and of the numbers of its updates."""
        return self.workdir.with_name(f"{self.workdir.name}.output{self.process}")

    @property
    def log(self) -> str:
        return (self.output / "stderr").read_text()

    @property
    def updates(self) -> list[int]:
        path = self.output / "updates"
        return [int(number) for number in path.read_text().split()] if path.exists() else []


def start(paths: ChainPaths, fill_cache: bool = False, pause: float = 0.0, flags: Sequence[str] = ()) -> BaseProcess:
    """Starts a process that runs the chain, or resumes it."""
    paths.output.mkdir(exist_ok=True)
    own_flags = str(paths.output / "updates"), str(pause), str(paths.cache), "fill" if fill_cache else "read"
    flags = "--config=tests/configs/killed_chain.py", f"--workdir={paths.url or paths.workdir}", *paths.flags, *flags
    return start_program(__name__, *own_flags, *flags, output=paths.output, fast_compilation=True)


def start_processes(
    paths: ChainPaths, count: int, fill_cache: bool = False, pause: float = 0.0
) -> list[tuple[BaseProcess, ChainPaths]]:
    """Starts a run of several processes with one device each; returns them with their paths."""
    address, started = f"localhost:{free_port()}", []
    for number in range(count):
        own = paths._replace(cache=paths.cache / f"{number}-{count}", process=number)
        flags = f"--multihost={address},{number},{count}", f"--devices={count}"
        started.append((start(own, fill_cache, pause, flags), own))
    return started


def wait(process: BaseProcess, paths: ChainPaths) -> None:
    """Waits for the end of a process, which must be without an error."""
    process.join(600)
    process.kill()
    process.join()
    assert process.exitcode == 0, paths.log


def finish(paths: ChainPaths, fill_cache: bool = False) -> None:
    """Runs the chain to its end."""
    wait(start(paths, fill_cache), paths)


def finish_processes(paths: ChainPaths, count: int, fill_cache: bool = False) -> list[ChainPaths]:
    """Runs the chain to its end in several processes; returns their paths."""
    started = start_processes(paths, count, fill_cache)
    for process, own in started:
        wait(process, own)
    return [own for _, own in started]


def send(number: signal.Signals, process: BaseProcess, paths: ChainPaths) -> str | None:
    """Sends a signal to the process of a run, and checks how it ends.

    With SIGTERM it ends with the documented status in every step.

    Returns:
      The step that the signal ended, such as "train student"; "start" before the first one; None if the process had
      ended before, without an error.
    """
    if not process.is_alive():
        assert process.exitcode == 0, paths.log
        return None
    os.kill(process.pid, number)
    process.join(120)
    assert not process.is_alive(), f"{number.name} did not end the process\n{paths.log}"
    if process.exitcode == 0:
        return None
    log = paths.log.rpartition(_BEGIN)[2]
    steps = [line.partition("] ")[2] for line in log.splitlines() if re.match(r"\[\d+/\d+\] ", line)]
    # Before the first step and after the last one, SIGTERM ends a process as it ends any other.
    is_in_step = bool(steps) and "done in " not in log
    expected = {-signal.SIGKILL} if number == signal.SIGKILL else {143} if is_in_step else {143, -signal.SIGTERM}
    assert process.exitcode in expected, f"{number.name} ended the process with {process.exitcode}\n{paths.log}"
    return steps[-1] if steps else "start"


def check_repeated_updates(updates: list[int], ends: list[int], steps: int) -> None:
    """Asserts that no process repeated an update that was made before SIGTERM, except at most the last one.

    Args:
      updates: the numbers of all updates, in the order in which they were made.
      ends: how many of them had been made at each SIGTERM.
      steps: the number of updates of a training.
    """
    for end in ends:
        if 0 < end < len(updates):
            last, following = updates[end - 1], updates[end]
            assert following in (last, last % steps + 1), f"update {last}, SIGTERM, update {following}"


def contents(workdir: Path) -> dict[str, object]:
    """Returns all that must not depend on interruptions, by path: the bytes of files, and the arrays of checkpoints."""
    found: dict[str, object] = {}
    for pattern in ("rationales/*/responses-*.jsonl", "corpora/*/*", "evaluations/*/*", "exports/*/*"):
        found |= {str(path.relative_to(workdir)): path.read_bytes() for path in workdir.glob(pattern)}
    for name in [name for name in found if name.endswith("/manifest.json")]:
        del found[name]  # has times
    for path in workdir.glob("students/*/metrics.jsonl"):
        lines = map(json.loads, path.read_text().splitlines())
        found[str(path.relative_to(workdir))] = [{k: v for k, v in row.items() if not is_time(k)} for row in lines]
    for path in workdir.glob("students/*/checkpoints/*/_CHECKPOINT_METADATA"):
        if int(path.parent.name) % (STEPS // 2):
            continue  # which ones of those without an evaluation are the last that are kept depends on SIGTERM
        record = json.loads(path.read_text())["custom_metadata"]  # with a digest of every array
        found[str(path.relative_to(workdir))] = [record[key] for key in ("data", "scores", "arrays")]
    return found


def check_equal(workdir: Path, expected: dict[str, object]) -> None:
    """Asserts that a finished run has the rows, bytes and parameters of another one, and that they are as recorded."""
    found = contents(workdir)
    assert sorted(found.keys() ^ expected.keys()) == []
    assert [name for name in found if found[name] != expected[name]] == []
    assert {result.state for result in verify(str(workdir))} == {"intact"}
    assert (workdir / "report/index.html").exists()


def main() -> None:
    """Runs the command line in this process."""
    updates, pause, cache, cache_mode = sys.argv[1:5]
    del sys.argv[1:5]
    print(_BEGIN, file=sys.stderr, flush=True)
    use_compilation_cache(cache, fills=cache_mode == "fill")
    if "STORAGE_EMULATOR_HOST" in os.environ:
        use_fsspec()
    _record_updates(os.open(updates, os.O_WRONLY | os.O_APPEND | os.O_CREAT), float(pause))
    runpy.run_module("scotd_jax.main", run_name="__main__", alter_sys=True)


def _record_updates(file: int, pause: float) -> None:
    """Appends the number of every update to a file when it is dispatched, and then waits."""
    from scotd_jax.training.metrics import DeferredMetrics

    add = DeferredMetrics.add

    def record(self, step, *arguments):
        os.write(file, f"{step}\n".encode())
        time.sleep(pause)
        add(self, step, *arguments)

    DeferredMetrics.add = record


if __name__ == "__main__":
    main()
