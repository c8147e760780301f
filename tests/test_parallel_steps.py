"""Several steps at a time: order, shares, and errors."""

import threading

import jax
import pytest

from scotd_jax.errors import InputError
from scotd_jax.parallel_steps import device_shares, run_parallel
from scotd_jax.preemption import Preempted, deferred
from scotd_jax.progress import log, prefixed

NEEDS = {"sample": (), "a": ("sample",), "b": ("sample",), "c": ("a",), "report": ("a", "b", "c")}


def test_steps_without_dependency_run_at_the_same_time_and_others_in_order():
    both = threading.Barrier(2, timeout=10)
    done: list[str] = []
    used: dict[str, int] = {}

    def run(step: str, share: int) -> None:
        assert set(NEEDS[step]) <= set(done)
        used[step] = share
        if step in ("a", "b"):
            both.wait()  # breaks unless the other one runs now
        done.append(step)

    run_parallel(list(NEEDS), NEEDS.__getitem__, [0, 1], run)
    assert sorted(done) == sorted(NEEDS)
    assert used["a"] != used["b"]


def test_needed_steps_outside_of_the_run_are_done():
    done: list[str] = []
    run_parallel(["c", "report"], NEEDS.__getitem__, [0, 1], lambda step, share: done.append(step))
    assert done == ["c", "report"]


def test_after_an_error_no_step_starts_and_running_ones_end():
    failed, ended = threading.Event(), []

    def run(step: str, share: int) -> None:
        if step == "a":
            failed.set()
            raise InputError("a is wrong")
        if step == "b":
            failed.wait(10)
        ended.append(step)

    with pytest.raises(InputError, match="a is wrong"):
        run_parallel(list(NEEDS), NEEDS.__getitem__, [0, 1], run)
    assert ended == ["sample", "b"]


def test_after_sigterm_every_training_saves_first():
    training, saved = threading.Event(), threading.Event()

    def run(step: str, share: int) -> None:
        if step == "a":
            training.wait(10)
            raise Preempted
        if step == "b":
            with deferred():
                training.set()
                saved.wait(0.3)
                saved.set()

    with pytest.raises(Preempted):
        run_parallel(list(NEEDS), NEEDS.__getitem__, [0, 1], run)
    assert saved.is_set()


def test_lines_of_a_thread_begin_with_its_step(capfd):
    def run(step: str, share: int) -> None:
        with prefixed(f"{step}: "):
            log("works")

    run_parallel(["sample", "a"], NEEDS.__getitem__, [0, 1], run)
    log("done")
    assert capfd.readouterr().err.splitlines() == ["sample: works", "a: works", "done"]


def test_shares_are_equal_parts_of_the_devices():
    assert device_shares(1) == [None]
    shares = device_shares(2)
    assert [len(share) for share in shares] == [len(jax.devices()) // 2] * 2
    assert [device for share in shares for device in share] == jax.devices()
    with pytest.raises(InputError, match=r"--parallel=3: cannot divide the 8 devices"):
        device_shares(3)
