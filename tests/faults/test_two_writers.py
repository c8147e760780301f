"""A work directory has one writer at a time; a second process is refused and the first one named."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from scotd_jax import config as c
from scotd_jax import main, workdir_lock
from scotd_jax.atomic import write_text
from scotd_jax.errors import InputError
from scotd_jax.workdir_lock import lock_workdir

HOLD = (
    "import sys, time\n"
    "from etils import epath\n"
    "from scotd_jax.workdir_lock import lock_workdir\n"
    "with lock_workdir(epath.Path(sys.argv[1])):\n"
    "    print('locked', flush=True)\n"
    "    time.sleep(100)\n"
)


def owner(folder: epath.Path) -> str:
    return (folder / ".lock").read_text().strip()


@contextlib.contextmanager
def other_process(folder: epath.Path):
    """A process that holds the lock of a folder until it is killed at the end of the block."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        try:
            yield process
        finally:
            process.kill()


def refused_by_this_process():
    return pytest.raises(InputError, match=f"in use by process {os.getpid()} on {socket.gethostname()} since")


@pytest.fixture
def folder(tmp_path) -> epath.Path:
    return epath.Path(tmp_path)


@pytest.fixture
def quick(monkeypatch):
    """Waits that take no time."""
    monkeypatch.setattr(workdir_lock, "PATIENCE", 0.3)
    monkeypatch.setattr(workdir_lock, "HEARTBEAT", 0.05)
    monkeypatch.setattr(workdir_lock, "SETTLE", 0.1)


@pytest.fixture
def bucket(monkeypatch, quick):
    """Local paths are treated as those of a bucket, which has no locks of the operating system."""
    monkeypatch.setattr(workdir_lock, "is_local", lambda path: False)
    monkeypatch.setattr(workdir_lock, "_write", lambda path, text: write_text(path, text))  # as atomic as in a bucket


@pytest.mark.slow
def test_second_process_is_refused_and_takes_over_after_a_kill(folder, capfd):
    config = c.Config(tasks={"w": c.Task()}, rationales={"gold": c.TaskSource(questions=("w.gold",))})
    with other_process(folder) as first:
        first.send_signal(signal.SIGSTOP)  # it renews nothing, but the lock of the operating system is still its own
        named = rf"in use by process {first.pid} on {socket.gethostname()} since \d{{4}}-"
        with pytest.raises(InputError, match=named):
            main.run(c.plain(config), str(folder), ("sample",), ("sample",), "")
        assert not (folder / "config.json").exists(), "the refused command changed nothing"
        first.send_signal(signal.SIGKILL)
        first.wait()
        with lock_workdir(folder):  # at once
            assert json.loads(owner(folder))["pid"] == os.getpid()
    assert f"taken over from process {first.pid}" in capfd.readouterr().err
    assert owner(folder) == "", "released"


def test_lock_is_released_after_an_error(folder):
    with contextlib.suppress(KeyboardInterrupt), lock_workdir(folder):
        raise KeyboardInterrupt
    with (
        lock_workdir(folder),
        pytest.raises(InputError, match=f"in use by process {os.getpid()}"),
        lock_workdir(folder),
    ):
        pass


def test_lock_in_a_bucket_is_refused_while_its_owner_renews_it(folder, bucket):
    with (
        lock_workdir(folder),
        pytest.raises(InputError, match=f"in use by process {os.getpid()}"),
        lock_workdir(folder),
    ):
        pass
    with lock_workdir(folder):
        pass


@pytest.mark.parametrize("host", ["another-host", "this host, but a process that has ended"])
def test_stale_lock_in_a_bucket_is_taken_over(folder, bucket, host, capfd):
    ended = subprocess.Popen(["true"])
    ended.wait()
    host = host if host == "another-host" else socket.gethostname()
    (folder / ".lock").write_text(json.dumps({"host": host, "pid": ended.pid, "since": "s", "token": "t"}))
    begin = time.monotonic()
    with lock_workdir(folder):
        waited = time.monotonic() - begin
    assert f"taken over from process {ended.pid} on {host} since s" in capfd.readouterr().err
    assert (waited > workdir_lock.PATIENCE) == (host == "another-host"), "only another host must be observed"


def test_of_two_simultaneous_writers_in_a_bucket_one_is_refused(folder, bucket):
    locked, refused = [], []

    def run() -> None:
        try:
            with lock_workdir(folder):
                locked.append(1)
                time.sleep(0.3)
        except InputError:
            refused.append(1)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(locked), len(refused)) == (1, 1)


def test_process_whose_lock_was_taken_over_ends(folder, quick, monkeypatch):
    """A process that was suspended for longer than another one waits."""
    statuses = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    with lock_workdir(folder):
        workdir_lock._write(folder / ".lock", json.dumps({"host": "h", "pid": 1, "since": "s", "token": "other"}))
        time.sleep(0.3)
    assert 2 in statuses


def test_process_whose_lock_was_taken_over_before_its_first_renewal_ends(folder, quick, monkeypatch):
    statuses, take = [], workdir_lock._take

    def overtaken(path: epath.Path, is_locked: bool) -> dict:
        mine = take(path, is_locked)
        workdir_lock._write(path, json.dumps({"host": "h", "pid": 1, "since": "s", "token": "other"}))
        return mine

    monkeypatch.setattr(os, "_exit", statuses.append)
    monkeypatch.setattr(workdir_lock, "_take", overtaken)
    with lock_workdir(folder):
        time.sleep(0.3)
    assert 2 in statuses


def test_renewal_is_tried_again_after_any_error(folder, bucket, monkeypatch):
    """Libraries for buckets raise errors of their own, which once ended the thread: the lock then seemed dead."""
    write, errors = workdir_lock._write, [RuntimeError("connection lost"), OSError("disk full")]

    def unreliable(path: epath.Path, text: str) -> None:
        if errors and threading.current_thread() is not threading.main_thread():
            raise errors.pop()
        write(path, text)

    monkeypatch.setattr(workdir_lock, "_write", unreliable)
    with lock_workdir(folder):
        time.sleep(0.4)
        assert json.loads(owner(folder))["renewed"] > 0
    assert not errors


@pytest.mark.parametrize("content", ["", "{", "[]", "0", '{"host": 1}'])
def test_damaged_lock_file_does_not_block(folder, quick, content):
    (folder / ".lock").write_text(content)
    with lock_workdir(folder):
        pass


def test_folder_that_cannot_be_created_is_refused(folder):
    (folder / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written.*choose another --workdir"), lock_workdir(folder / "file"):
        pass
