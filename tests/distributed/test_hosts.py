"""Coordination of processes, with a simulated second process.

tests/end_to_end/test_two_processes.py uses two real processes.
"""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from scotd_jax.distributed import hosts
from scotd_jax.errors import InputError


def on_both_processes(monkeypatch, compute):
    """Runs `on_primary(compute)` as process 0, then as process 1, which receives the broadcasts of process 0.

    Returns both results; an error is returned as its type and message.
    """
    outcomes, sent = [], []

    def broadcast(value):
        if jax.process_index() == 0:
            sent.append(np.asarray(value))
        else:
            assert np.shape(value) == sent[0].shape, "all processes of a broadcast need the same shape"
        return sent[-1] if jax.process_index() == 0 else sent.pop(0)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "sync_processes", lambda barrier: None)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", broadcast)
    for process in (0, 1):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        try:
            outcomes.append(hosts.on_primary(compute))
        except Exception as error:
            outcomes.append((type(error), str(error)))
    assert sent == []
    return outcomes


def test_result_of_the_primary_process_reaches_all(monkeypatch):
    calls = []

    def compute():
        calls.append(jax.process_index())
        return {"ann/tiny": "ann/tiny@" + "0123456789" * 4, "größe": None}

    first, second = on_both_processes(monkeypatch, compute)
    assert first == second == {"ann/tiny": "ann/tiny@" + "0123456789" * 4, "größe": None}
    assert calls == [0]


def test_input_error_of_the_primary_process_ends_all(monkeypatch):
    def refuse():
        raise InputError("ann/none: no such repository")

    assert on_both_processes(monkeypatch, refuse) == [(InputError, "ann/none: no such repository")] * 2


def test_any_other_error_of_the_primary_process_ends_all(monkeypatch):
    def fail():
        raise OSError("connection reset")

    primary, other = on_both_processes(monkeypatch, fail)
    assert primary == (OSError, "connection reset")
    assert other == (RuntimeError, "the primary process failed: OSError: connection reset")


def test_single_process_computes_for_itself():
    assert hosts.on_primary(lambda: "value") == "value"

    def refuse():
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        hosts.on_primary(refuse)


def test_run_on_other_devices_than_the_launcher_requested_is_refused(monkeypatch):
    hosts.check_device_count(8)
    with pytest.raises(InputError, match="--devices=16: JAX found 8 \\(cpu; this is process 0 of 1 and has 8\\)"):
        hosts.check_device_count(16)
    with pytest.raises(InputError, match="--devices=4: JAX found 8"):
        hosts.check_device_count(4)

    def no_driver():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(jax, "device_count", no_driver)
    with pytest.raises(InputError, match="JAX cannot use its devices: Unable to initialize backend 'cuda'"):
        hosts.check_device_count(8)
