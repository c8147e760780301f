"""Two hosts that sample into one folder, of which one is killed at every step of its own, or both at any moment.

The hosts are forks, each with a writer of its own, that wait for each other over a socket where the sample job does. A
host that finds the other one dead ends, as a process of jax.distributed does. As a script:

    python -m tests.helpers.killed_hosts FOLDER MOMENTS
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
from tests.helpers import killed_store
from tests.helpers.killed_disk import Disk, check_kept, look
from tests.helpers.killed_store import ROWS, check_complete, strike_at, striking

LOST = 3  # exit status of a host that lost the other one
PAUSE = 0.0005  # seconds that every step takes where moments are random, so that they are spread over all steps
Strike = Callable[[str], object]


def nothing(what: str) -> None:
    pass


def pause(what: str) -> None:
    time.sleep(PAUSE)


def strike_dead(what: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Partner:
    """The other host."""

    def __init__(self, connection: socket.socket, last: bool):
        self._connection, self._last = connection, last

    def wait(self) -> None:
        """Returns when the other host has come as far. Where this host is `last`, the other one has already come to
        the next place, or is dead."""
        try:
            self._connection.sendall(b".")
            alive = self._connection.recv(1)
            if alive and self._last:
                self._last = False
                self._connection.recv(1, socket.MSG_PEEK)
        except ConnectionError:
            alive = b""
        if not alive:
            os._exit(LOST)


def start(folder: Path, strikes: list[Strike], acknowledge: int, last: int = -1) -> list[int]:
    """Process ids of one run on as many hosts as there are strikes. Names of written rows go into a pipe.

    Host `last` writes nothing before the other one has written everything, or is dead.
    """
    pair = socket.socketpair() if len(strikes) == 2 else ()
    started = []
    for host, strike in enumerate(strikes):
        started.append(os.fork())
        if not started[-1]:
            try:
                if pair:
                    pair[1 - host].close()
                wait = Partner(pair[host], host == last).wait if pair else lambda: None
                with striking(strike):
                    killed_store.run(
                        folder,
                        lambda row: os.write(acknowledge, f"{row.question_id} {row.sample_index}\n".encode()),
                        host,
                        len(strikes),
                        wait,
                    )
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
    for connection in pair:
        connection.close()
    return started


def ended(process: int) -> int:
    """Exit status, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def run(
    folder: Path, strikes: list[Strike], moment: Callable[[list[int]], object] = lambda started: None, last: int = -1
) -> list[int]:
    """One run; how each host ended. `moment` may kill some. Nothing that was there or was acknowledged may be lost."""
    before = look(folder)
    read, write = os.pipe()
    started = start(folder, strikes, write, last)
    os.close(write)
    moment(started)
    codes = [ended(process) for process in started]
    with os.fdopen(read) as pipe:
        acknowledged = {(q, int(k)) for q, k in (line.split() for line in pipe)}
    assert set(codes) <= {0, LOST, -signal.SIGKILL}, codes
    after = look(folder)
    check_kept(before, after, len(ROWS))
    check_known(after)
    assert acknowledged <= after.rows.keys(), f"acknowledged, but gone: {sorted(acknowledged - after.rows.keys())}"
    return codes


def check_known(disk: Disk) -> None:
    said = {row.key: to_json(row).encode() for row in ROWS}
    for name, line in disk.rows.items():
        assert line == said[name]


def run_whole(folder: Path, hosts: int) -> None:
    assert run(folder, [nothing] * hosts) == [0] * hosts
    check_complete(folder)


def every_step(root: Path, victim: int, last: int) -> int:
    """Kills one host at each of its steps, in a folder of its own and in one that has seen all steps before.

    Then the run goes on with one host or two. Returns the number of steps.
    """
    often = root / "often"
    for step in range(sys.maxsize):
        folder = root / str(step)
        strikes = [nothing, nothing]
        strikes[victim] = strike_at(step, strike_dead)
        codes = run(folder, strikes, last=last)
        if codes == [0, 0]:
            check_complete(folder)
            run_whole(often, 2)
            return step
        assert codes[victim] == -signal.SIGKILL, codes
        run(often, strikes, last=last)
        run_whole(folder, 1 + step % 2)
    raise AssertionError


def any_moment(root: Path, kills: int, rng: random.Random) -> int:
    """Kills one host or both, `kills` times, at moments that are even over the time of a run; how many runs it took.

    Every folder is killed up to four times, on two hosts or on one, and finished then. How long a run takes is measured
    once, perhaps while others keep the machine busy: whenever a whole run has ended before its kill, less is believed.
    """
    began = time.monotonic()
    run(root / "pace", [pause] * 2)
    whole = time.monotonic() - began
    left = [(i + rng.random()) / kills for i in range(kills)]
    rng.shuffle(left)
    for number in range(10 * kills):
        folder = root / str(number)
        for _ in range(rng.randint(1, 4)):
            if not left:
                break
            hosts = rng.choice((1, 2, 2))
            at, victims = left[-1] * whole, rng.choice(([0], [1], [0, 1])) if hosts == 2 else [0]

            def strike(started: list[int], at=at, victims=victims) -> None:
                time.sleep(at)
                for host in victims:
                    os.kill(started[host], signal.SIGKILL)

            whole_run = hosts == 2 and not folder.exists()
            if -signal.SIGKILL in run(folder, [pause] * hosts, strike):
                left.pop()
                continue
            rng.shuffle(left)  # it came too late for what was left to do here, and comes again
            if whole_run:
                whole *= 0.95
        run_whole(folder, rng.choice((1, 2)))
        if not left:
            return number + 1
    raise AssertionError(f"moments that always come too late: {left}")


def main(root: Path, moments: int) -> list[int]:
    """Numbers of steps of host 0 and host 1; each is killed while the other one goes on, and when it has finished."""
    steps = [every_step(root / f"{victim}{last}", victim, last) for victim in (0, 1) for last in (0, 1)]
    any_moment(root / "moments", moments, random.Random(0))
    return steps


if __name__ == "__main__":
    print(*main(Path(sys.argv[1]), int(sys.argv[2])))
