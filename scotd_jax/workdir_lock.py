"""One writer per work directory: the file `.lock` names the process that writes there.

A local lock is also a lock of the operating system (flock), which ends with its process, however that ends. Buckets,
and file systems without such locks across hosts, have only the file. Its owner renews it every `HEARTBEAT` seconds.
A process that finds the lock of another host observes it for `PATIENCE` seconds: if the lock is renewed, its owner is
alive; if not, the owner is dead, and the lock is taken over. Clocks of hosts are not compared.
"""

import contextlib
import datetime
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from scotd_jax.atomic import is_local
from scotd_jax.errors import InputError
from scotd_jax.progress import log

HEARTBEAT = 15.0  # seconds between renewals
PATIENCE = 60.0  # seconds without a renewal after which an owner counts as dead
SETTLE = 2.0  # seconds after which a bucket shows which of two simultaneous writers was the last
_BYTES = 1024  # size of the file; the text is padded with blanks


@contextlib.contextmanager
def lock_workdir(root: epath.Path) -> Iterator[None]:
    """Holds the lock of a work directory, which is created if needed.

    Raises:
      InputError: if another process holds it, which is named, or the folder cannot be written.
    """
    path = root / ".lock"
    with contextlib.ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            is_locked = stack.enter_context(_system_lock(path)) if is_local(root) else False
            mine = _take(path, is_locked)
        except OSError as error:
            raise InputError(f"{root}: cannot be written ({error}); choose another --workdir") from None
        stack.enter_context(_heartbeat(path, mine))
        yield


@contextlib.contextmanager
def _system_lock(path: epath.Path) -> Iterator[bool]:
    """Locks a local file until the block ends. Yields False on a file system without such locks, else True.

    Raises:
      InputError: if another process holds it.
    """
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = True
        except BlockingIOError:
            raise _in_use(path, _read(path)) from None
        except OSError:  # a file system without locks
            is_locked = False
        yield is_locked
    finally:
        os.close(descriptor)


def _take(path: epath.Path, is_locked: bool) -> dict[str, Any]:
    """Writes this process into the lock file, and returns what it wrote. Raises InputError if another owner is alive.

    Args:
      path: the lock file.
      is_locked: whether this process holds the lock of the operating system, so that no other one of this host does.
    """
    owner = _read(path)
    if owner and not _is_dead(owner, is_locked):
        log(f"{path}: {_describe(owner)} may work here; waiting up to {PATIENCE:g} s to see whether it does")
        deadline = time.monotonic() + PATIENCE
        while (seen := _read(path)) == owner and time.monotonic() < deadline:
            time.sleep(min(1.0, PATIENCE / 10))
        if seen and seen != owner:
            raise _in_use(path, seen)
    if owner:
        log(f"{path}: taken over from {_describe(owner)}, which has ended without releasing it")
    mine: dict[str, Any] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
        "token": uuid.uuid4().hex,
        "renewed": 0,
    }
    _write(path, json.dumps(mine))
    if not is_local(path):
        time.sleep(SETTLE)
        if (seen := _read(path)).get("token") != mine["token"]:
            raise _in_use(path, seen)
    return mine


def _is_dead(owner: dict[str, Any], is_locked: bool) -> bool:
    """Whether the owner has certainly ended, which is known at once only of a process of this host."""
    if owner.get("host") != socket.gethostname():
        return False
    if is_locked:
        return True
    try:
        os.kill(int(owner.get("pid", 0)), 0)  # signal 0 only checks that the process exists
    except ProcessLookupError:
        return True
    except (OSError, ValueError, TypeError, OverflowError):  # a process of another user, or a damaged file
        return False
    return False


@contextlib.contextmanager
def _heartbeat(path: epath.Path, mine: dict[str, Any]) -> Iterator[None]:
    """Renews the lock in a thread, and empties it at the end. Ends this process if another one has taken the lock."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(HEARTBEAT):
            with contextlib.suppress(Exception):  # a full disk or a lost connection, of any library: try again
                seen = _read(path)
                if seen.get("token", mine["token"]) != mine["token"]:
                    # Saving anything would destroy the work of the other process.
                    print(f"error: {_in_use(path, seen)}", file=sys.stderr, flush=True)
                    os._exit(2)
                mine["renewed"] += 1
                _write(path, json.dumps(mine))

    thread = threading.Thread(target=renew, name="workdir lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(Exception):
            _write(path, "")  # not removed: another process may have opened it for its lock


def _read(path: epath.Path) -> dict[str, Any]:
    """The owner that a lock names; {} if it names none."""
    try:
        owner = json.loads(path.read_text())
    except (OSError, ValueError):  # no file, or a damaged one
        return {}
    return owner if isinstance(owner, dict) else {}


def _write(path: epath.Path, text: str) -> None:
    """Writes a local file in place, since the system's lock belongs to it, and never leaves it empty for a moment."""
    text = text.ljust(_BYTES)
    if not is_local(path) or not path.exists():
        path.write_text(text)
        return
    with open(path, "r+") as file:  # etils has no such mode
        file.write(text)


def _in_use(path: epath.Path, owner: dict[str, Any]) -> InputError:
    return InputError(
        f"{path.parent}: in use by {_describe(owner)}; two runs in one work directory would destroy each other's "
        "files. Wait until it ends, or end it, or choose another --workdir"
    )


def _describe(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    return f"process {owner.get('pid')} on {owner.get('host')} since {owner.get('since')}"
