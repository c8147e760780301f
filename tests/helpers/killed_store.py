"""One small sampling run whose every step on the disk can be made its last. Used by test_store.py.

As a script it kills forks of itself with signal 9, once at every step, and looks at what is left:

    python -m tests.helpers.killed_store FOLDER
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
STEPS = ("mkdir", "makedirs", "fsync", "replace", "remove", "rmdir")


def row(question_id: str, sample_index: int, text: str = "") -> Response:
    text = text or f"{question_id} says {sample_index}."
    return Response(question_id, sample_index, text, "so", "A", True, "stop", -1.5, 7, "teacher", "greedy")


ROWS = [row(q, k) for q in sorted(ORDER) for k in range(SAMPLES)]
MERGED = [to_json(row(q, k)) for q in ORDER for k in range(SAMPLES)]


def run(
    folder: Path,
    acknowledge: Callable[[Response], object] = lambda row: None,
    host: int = 0,
    hosts: int = 1,
    wait: Callable[[], object] = lambda: None,
) -> None:
    """What the sample job does: asks for what is not done yet, four rows at a time on all hosts, and merges at the end.

    `wait` is where hosts wait for each other (tests/helpers/killed_hosts.py).
    """
    writer = ResponseWriter(folder, host=host)
    done = writer.written_keys()
    wait()
    missing = [r for r in reversed(ROWS) if r.key not in done][host::hosts]
    for begin in range(0, len(missing), size := 4 // hosts):
        batch = missing[begin : begin + size]
        writer.write(batch)
        for r in batch:
            acknowledge(r)
    wait()
    if host == 0:
        writer.merge(ORDER, 2)
    wait()


@contextmanager
def striking(strike: Callable[[str], object]) -> Iterator[None]:
    """Calls `strike` before and after every change to the disk, and in the middle of every file.

    Flushing is a step, but is not done: it outlives a power cut, which we cannot test, and takes most of the time.
    """
    steps = {name: _struck(name, getattr(os, name), strike) for name in STEPS}
    steps["fsync"] = _struck("fsync", lambda descriptor: None, strike)
    with mock.patch.multiple(os, **steps), mock.patch.object(store, "atomic_write", _torn(store.atomic_write, strike)):
        yield


def _struck(name: str, function: Callable, strike: Callable[[str], object]) -> Callable:
    def struck(*args, **kwargs):
        strike(f"before {name}")
        result = function(*args, **kwargs)
        strike(f"after {name}")
        return result

    return struck


def _torn(atomic_write: Callable, strike: Callable[[str], object]) -> Callable:
    """`atomic_write` whose files reach the disk in two halves, torn in the middle of a row."""

    class Torn:
        def __init__(self, file):
            self.file = file

        def writelines(self, lines):
            data = b"".join(lines)
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            strike("half written")
            self.file.write(data[len(data) // 2 :])

    @contextmanager
    def torn(path):
        with atomic_write(path) as file:
            yield Torn(file)

    return torn


def strike_at(step: int, blow: Callable[[str], object]) -> Callable[[str], None]:
    """A strike that calls `blow` once, at step number `step`."""
    count = iter(range(sys.maxsize))

    def strike(what: str) -> None:
        if next(count) == step:
            blow(what)

    return strike


def run_whole(folder: Path) -> None:
    """A run that nothing happens to, and what it must have made."""
    with striking(lambda what: None):
        run(folder)
    check_complete(folder)


def check_complete(folder: Path) -> None:
    """Exactly the merged files, with every row once and in order."""
    assert sorted(p.name for p in folder.iterdir()) == [f"responses-0000{i}-of-00002.jsonl" for i in range(2)]
    lines = [line for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]
    assert lines == MERGED, "rows lost, doubled or out of order"


def killed(folder: Path, step: int) -> bool:
    """Runs in a fork that is killed at `step`; asserts that no acknowledged row is lost. False: it ran to its end."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        with striking(strike_at(step, lambda what: os.kill(os.getpid(), signal.SIGKILL))):
            run(folder, lambda r: os.write(write, f"{r.question_id} {r.sample_index}\n".encode()))
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        acknowledged = {(q, int(k)) for q, k in (line.split() for line in pipe)}
    lost = acknowledged - ResponseWriter(folder).written_keys()
    assert not lost, f"step {step}: acknowledged, but gone: {sorted(lost)}"
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def main(root: Path) -> int:
    """Number of steps; every one of them was the last of one run and, in another folder, of one in a row of runs."""
    step, often = 0, root / "often"
    while killed(root / str(step), step):
        killed(often, step)  # in one folder again and again, each time a little later
        run_whole(root / str(step))
        step += 1
    check_complete(root / str(step))
    run_whole(often)
    return step


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
