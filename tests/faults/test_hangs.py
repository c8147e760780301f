"""A device, collective or process that hangs ends the run with a message, a stack dump and the status of a restart."""

import os
import sys
import time

import pytest

from scotd_jax import config as c
from scotd_jax import running
from scotd_jax.distributed import watchdog
from scotd_jax.distributed.watchdog import Watchdog
from scotd_jax.training import loop
from scotd_jax.training.loop import train
from tests.helpers.training_fixtures import bag_model, batches


@pytest.fixture
def ended(monkeypatch) -> list[str]:
    """The problems with which a watchdog would have ended the process."""
    problems: list[str] = []
    monkeypatch.setattr(watchdog, "end_process", problems.append)
    return problems


def test_block_that_takes_too_long_ends_the_process(ended):
    with Watchdog(minutes=0.001, interval=0.01) as hangs:
        time.sleep(0.1)  # between two blocks there is no limit
        for _ in range(8):
            with hangs.limit("update 1"):
                time.sleep(0.02)
        assert ended == []
        with hangs.limit("update 2"):
            time.sleep(0.2)
    assert set(ended) == {"update 2 has taken more than 0.001 minutes: a device or a process hangs"}


@pytest.mark.slow
def test_update_that_hangs_ends_training(ended, monkeypatch, one_device, tmp_path):
    fetch = loop.DeferredMetrics._fetch

    def hang(self, step, *arguments, **options):
        if step == 3:
            time.sleep(0.2)
        fetch(self, step, *arguments, **options)

    monkeypatch.setattr(loop.DeferredMetrics, "_fetch", hang)
    monkeypatch.setattr(loop, "Watchdog", lambda minutes: Watchdog(minutes=0.001, interval=0.01))
    training = c.Training(steps=4, batch_size=4, startup_check=False, optimizer=c.Optimizer(warmup_steps=1))
    train(bag_model(), None, batches(4), training, tmp_path, one_device)
    assert ended[0].startswith("update 3 has taken more than")


def test_exit_prints_the_stacks_of_all_threads(monkeypatch, capfd):
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as ended:
        watchdog.end_process("update 7 hangs")
    errors = capfd.readouterr().err
    assert "error: process 0 of 1: update 7 hangs; the same command resumes" in errors
    assert "in test_exit_prints_the_stacks_of_all_threads" in errors
    assert ended.value.code == running.PREEMPTED
