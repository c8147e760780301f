"""Two hosts that write responses into one folder: one host is killed at every step, or both at random times.

The hosts are forks, each with its own writer. They wait for each other over a socket at the barriers of the sample job.
If one host is dead, the other exits, as processes of jax.distributed do. As a script:

    python -m tests.helpers.kill_two_hosts FOLDER NUM_RANDOM_KILLS SEED
"""

import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from scotd_jax.records import to_json
from tests.helpers import kill_store
from tests.helpers.kill_snapshots import Snapshot, check_preserved, take_snapshot
from tests.helpers.kill_store import ROWS, Hook, at_step, check_complete, hook_file_operations

LOST_PARTNER = 3  # exit status of a host whose partner is dead
PAUSE = 0.0005  # seconds per step before random kills, so that they are spread over all steps


def do_nothing(name: str) -> None:
    pass


def pause(name: str) -> None:
    time.sleep(PAUSE)


def kill_self(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Partner:
    """The other host, at the other end of a connection."""

    def __init__(self, connection: socket.socket, last: bool):
        self._connection, self._last = connection, last

    def wait(self) -> None:
        """Waits until the other host has reached the same barrier; exits if it is dead.

        If this host is `last`, it also waits at its first barrier until the other host is at the next one or is dead.
        """
        try:
            self._connection.sendall(b".")
            alive = self._connection.recv(1)
            if alive and self._last:
                self._last = False
                self._connection.recv(1, socket.MSG_PEEK)
        except ConnectionError:
            alive = b""
        if not alive:
            os._exit(LOST_PARTNER)


def start(folder: Path, hooks: list[Hook], acknowledge: int, last: int = -1) -> list[int]:
    """Starts a run with one host per hook; returns the process ids.

    Args:
      folder: folder of the responses.
      hooks: for each host a hook that is called at every step.
      acknowledge: file descriptor to which the keys of written rows are written.
      last: a host that writes nothing until the other one has written everything or is dead; -1 for none.
    """
    pair = socket.socketpair() if len(hooks) == 2 else ()
    processes = []
    for host, hook in enumerate(hooks):
        processes.append(os.fork())
        if not processes[-1]:
            try:
                if pair:
                    pair[1 - host].close()
                barrier = Partner(pair[host], host == last).wait if pair else lambda: None
                with hook_file_operations(hook):
                    kill_store.run(
                        folder,
                        lambda row: os.write(acknowledge, f"{row.question_id} {row.sample_index}\n".encode()),
                        host,
                        len(hooks),
                        barrier,
                    )
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
    for connection in pair:
        connection.close()
    return processes


def run(
    folder: Path, hooks: list[Hook], kill: Callable[[list[int]], object] = lambda processes: None, last: int = -1
) -> list[int]:
    """Runs all hosts and returns their exit codes, or minus the signal.

    `kill` may kill some of the processes. Asserts that no row that was on disk or acknowledged is lost.
    """
    before = take_snapshot(folder)
    read, write = os.pipe()
    processes = start(folder, hooks, write, last)
    os.close(write)
    kill(processes)
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    with os.fdopen(read) as pipe:
        acknowledged = {(q, int(k)) for q, k in (line.split() for line in pipe)}
    assert set(codes) <= {0, LOST_PARTNER, -signal.SIGKILL}, codes
    after = take_snapshot(folder)
    check_preserved(before, after, len(ROWS))
    check_rows(after)
    assert acknowledged <= after.rows.keys(), f"acknowledged but lost: {sorted(acknowledged - after.rows.keys())}"
    return codes


def check_rows(snapshot: Snapshot) -> None:
    """Asserts that every row has the bytes that were written."""
    expected = {row.key: to_json(row).encode() for row in ROWS}
    for key, line in snapshot.rows.items():
        assert line == expected[key]


def run_to_the_end(folder: Path, hosts: int) -> None:
    assert run(folder, [do_nothing] * hosts) == [0] * hosts
    check_complete(folder)


def kill_at_every_step(root: Path, victim: int, last: int) -> int:
    """Kills one host at each of its steps, in a separate folder and in one that all steps share.

    Every run is then resumed on one host or two. Returns the number of steps.
    """
    shared = root / "shared"
    for step in range(sys.maxsize):
        folder = root / str(step)
        hooks = [do_nothing, do_nothing]
        hooks[victim] = at_step(step, kill_self)
        codes = run(folder, hooks, last=last)
        if codes == [0, 0]:
            check_complete(folder)
            run_to_the_end(shared, 2)
            return step
        assert codes[victim] == -signal.SIGKILL, codes
        run(shared, hooks, last=last)
        run_to_the_end(folder, 1 + step % 2)
    raise AssertionError


def kill_at_random(root: Path, kills: int, rng: random.Random) -> int:
    """Kills one host or both, `kills` times, at times spread evenly over a run; returns the number of folders.

    Runs in one folder are killed up to four times, on one host or two, and then finished. The duration of a run is
    measured once, perhaps on a busy machine, so the estimate shrinks whenever a run ends before its kill.
    """
    began = time.monotonic()
    run(root / "measured", [pause] * 2)
    duration = time.monotonic() - began
    remaining = [(i + rng.random()) / kills for i in range(kills)]
    rng.shuffle(remaining)
    for number in range(10 * kills):
        folder = root / str(number)
        for _ in range(rng.randint(1, 4)):
            if not remaining:
                break
            hosts = rng.choice((1, 2, 2))
            delay, victims = remaining[-1] * duration, rng.choice(([0], [1], [0, 1])) if hosts == 2 else [0]

            def kill(processes: list[int], delay=delay, victims=victims) -> None:
                time.sleep(delay)
                for host in victims:
                    os.kill(processes[host], signal.SIGKILL)

            is_full_run = hosts == 2 and not folder.exists()
            if -signal.SIGKILL in run(folder, [pause] * hosts, kill):
                remaining.pop()
                continue
            rng.shuffle(remaining)  # the kill came too late for this run and is tried again
            if is_full_run:
                duration *= 0.95
        run_to_the_end(folder, rng.choice((1, 2)))
        if not remaining:
            return number + 1
    raise AssertionError(f"kills that always came too late: {remaining}")


def main(root: Path, random_kills: int, seed: int) -> list[int]:
    """Kills each host at every step, before or after the other host writes its rows; then kills at random times.

    Returns the number of steps in each of the four cases.
    """
    steps = [kill_at_every_step(root / f"{victim}{last}", victim, last) for victim in (0, 1) for last in (0, 1)]
    kill_at_random(root / "random", random_kills, random.Random(seed))
    return steps


if __name__ == "__main__":
    print(*main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
