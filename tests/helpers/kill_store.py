"""A small run that writes responses, and can be killed at every file operation. Used by test_store.py.

As a script it kills forks of itself with signal 9, once at every operation, and checks the remaining files:

    python -m tests.helpers.kill_store FOLDER
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from scotd_jax.rationales import store
from scotd_jax.rationales.store import ResponseWriter
from scotd_jax.records import Response, to_json

ORDER = [f"q{i}" for i in (2, 0, 1)]
SAMPLES = 3
OPERATIONS = ("mkdir", "makedirs", "fsync", "replace", "remove", "rmdir")
Hook = Callable[[str], object]  # called with the name of a step


def row(question_id: str, sample_index: int, text: str = "") -> Response:
    text = text or f"{question_id} answer {sample_index}."
    return Response(question_id, sample_index, text, "so", "A", True, "stop", -1.5, 7, "teacher", "greedy")


ROWS = [row(q, k) for q in sorted(ORDER) for k in range(SAMPLES)]
MERGED = [to_json(row(q, k)) for q in ORDER for k in range(SAMPLES)]


def run(
    folder: Path,
    acknowledge: Callable[[Response], object] = lambda row: None,
    host: int = 0,
    hosts: int = 1,
    barrier: Callable[[], object] = lambda: None,
) -> None:
    """Writes the missing rows like the sample job, four at a time over all hosts, and merges them at the end.

    `acknowledge` is called with every written row, `barrier` where hosts wait for each other.
    """
    writer = ResponseWriter(folder, host=host)
    written = writer.written_keys()
    barrier()
    missing = [r for r in reversed(ROWS) if r.key not in written][host::hosts]
    for begin in range(0, len(missing), size := 4 // hosts):
        batch = missing[begin : begin + size]
        writer.write(batch)
        for r in batch:
            acknowledge(r)
    barrier()
    if host == 0:
        writer.merge(ORDER, 2)
    barrier()


@contextmanager
def hook_file_operations(hook: Hook) -> Iterator[None]:
    """Calls `hook` before and after every change to the disk, and in the middle of every file.

    fsync is a step but does nothing: it takes most of the time, and its effect in a power cut cannot be tested.
    """
    operations = {name: _hooked(name, getattr(os, name), hook) for name in OPERATIONS}
    operations["fsync"] = _hooked("fsync", lambda descriptor: None, hook)
    split_write = _write_in_halves(store.atomic_write, hook)
    with mock.patch.multiple(os, **operations), mock.patch.object(store, "atomic_write", split_write):
        yield


def _hooked(name: str, function: Callable, hook: Hook) -> Callable:
    def hooked(*args, **kwargs):
        hook(f"before {name}")
        result = function(*args, **kwargs)
        hook(f"after {name}")
        return result

    return hooked


def _write_in_halves(atomic_write: Callable, hook: Hook) -> Callable:
    """Returns an `atomic_write` that writes a file in two halves, split in the middle of a row."""

    class HalvedFile:
        def __init__(self, file):
            self.file = file

        def writelines(self, lines):
            data = b"".join(lines)
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            hook("half written")
            self.file.write(data[len(data) // 2 :])

    @contextmanager
    def write(path):
        with atomic_write(path) as file:
            yield HalvedFile(file)

    return write


def at_step(step: int, action: Hook) -> Hook:
    """Returns a hook that calls `action` once, at step number `step`."""
    count = iter(range(sys.maxsize))

    def hook(name: str) -> None:
        if next(count) == step:
            action(name)

    return hook


def run_to_the_end(folder: Path) -> None:
    """Runs without interruption and checks the files."""
    with hook_file_operations(lambda name: None):
        run(folder)
    check_complete(folder)


def check_complete(folder: Path) -> None:
    """Asserts that there are exactly the merged files, with every row once and in order."""
    assert sorted(p.name for p in folder.iterdir()) == [f"responses-0000{i}-of-00002.jsonl" for i in range(2)]
    lines = [line for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]
    assert lines == MERGED, "rows are lost, duplicated or out of order"


def run_and_kill(folder: Path, step: int) -> bool:
    """Kills a fork at `step` and asserts that no acknowledged row is lost; returns False if the run ended before."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        with hook_file_operations(at_step(step, lambda name: os.kill(os.getpid(), signal.SIGKILL))):
            run(folder, lambda r: os.write(write, f"{r.question_id} {r.sample_index}\n".encode()))
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        acknowledged = {(q, int(k)) for q, k in (line.split() for line in pipe)}
    lost = acknowledged - ResponseWriter(folder).written_keys()
    assert not lost, f"step {step}: acknowledged but lost: {sorted(lost)}"
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def main(root: Path) -> int:
    """Kills a run at every step, in a separate folder and in one that all steps share; returns the number of steps."""
    step, shared = 0, root / "shared"
    while run_and_kill(root / str(step), step):
        run_and_kill(shared, step)
        run_to_the_end(root / str(step))
        step += 1
    check_complete(root / str(step))
    run_to_the_end(shared)
    return step


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
