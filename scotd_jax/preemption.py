"""Preemption notices: after SIGTERM a run saves what it has and ends with a status on which it is started again.

A single process ends at once, because its finished work is on disk at any moment, except during training: there it
ends after the current update, or in the dev evaluation that the signal interrupts, with a checkpoint. Several processes
are coordinated by JAX, which receives the signal and lets all of them save after the same update; a dev evaluation in
progress ends first. Outside of training they continue until they are killed.
"""

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import jax


class Preempted(KeyboardInterrupt):
    """SIGTERM was received. Like Ctrl-C, this is not an error; it ends the step in which it is raised."""


class _Notice:
    """The state of this process: whether SIGTERM was received, and how many blocks of `deferred` are running."""

    received = False
    deferred = 0
    updates = itertools.count(1)  # of all trainings, which every process makes in the same order
    counting = (
        threading.Lock()
    )  # of `deferred`; the handler, which may interrupt the main thread anywhere, only reads it


@contextlib.contextmanager
def handle_sigterm() -> Iterator[None]:
    """Raises Preempted on SIGTERM in the block. With several processes, JAX handles the signal instead.

    A library that the exception interrupts may turn it into another error, as Orbax does while it reads a checkpoint,
    so an error after the signal becomes Preempted again. If a library drops it, `is_received` still returns True.

    Outside of the main thread it has no effect, because Python lets only that one handle signals.
    """
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _receive)
    try:
        yield
    except Exception as error:
        if _Notice.received:
            raise Preempted from error
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
        _Notice.received = False


def _receive(number: int, frame: FrameType | None) -> None:
    del number, frame
    _Notice.received = True
    if not _Notice.deferred:
        raise Preempted


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Delays the exception of SIGTERM to the end of the block, in which `is_requested` returns whether to end early."""
    _count(1)
    try:
        yield
    finally:
        _count(-1)
    if _Notice.received:
        raise Preempted


@contextlib.contextmanager
def interrupted() -> Iterator[None]:
    """Ends the block on SIGTERM, inside `deferred`; `is_received` returns whether it did.

    Outside of the main thread, which alone receives signals, the block ends first.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _count(-1)
    try:
        if _Notice.received:
            raise Preempted
        yield
    except Preempted:
        pass
    finally:
        _count(1)


def is_received() -> bool:
    """Returns whether this process received SIGTERM; False with several processes, where `is_requested` counts."""
    return _Notice.received


def wait_until_saved() -> None:
    """Waits for all blocks of `deferred`, for a process that ends while other threads train."""
    while _Notice.deferred:
        time.sleep(0.1)


def _count(change: int) -> None:
    with _Notice.counting:
        _Notice.deferred += change


def is_requested() -> bool:
    """Returns whether to save and end after this update.

    With several processes all of them must call it after every update, and it returns True on all after the same one.
    """
    if jax.process_count() == 1:
        return _Notice.received
    from jax.experimental import multihost_utils

    # Not the number of the update: JAX chooses a number above the last one, which a shorter training never reaches.
    return multihost_utils.reached_preemption_sync_point(next(_Notice.updates))
