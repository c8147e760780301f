"""Reads of sharded arrays by the primary process, with a simulated second process.

tests/faults/test_shared_models.py exports with several real processes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scotd_jax.distributed import primary_reads
from scotd_jax.distributed.primary_reads import readable_on_primary


class Reads(NamedTuple):
    """The indices that the primary has sent and the other process has not received, and the arrays of `fetch`."""

    sent: list[int]
    fetched: list[jax.Array]


@pytest.fixture
def reads(monkeypatch) -> Reads:
    reads = Reads([], [])

    def broadcast(index):
        if jax.process_index() == 0:
            reads.sent.append(index)
            return index
        return reads.sent.pop(0)

    def fetch(array):
        reads.fetched.append(array)
        return np.asarray(array)

    monkeypatch.setattr(primary_reads, "_is_local", lambda array: False)
    monkeypatch.setattr(primary_reads, "_broadcast", broadcast)
    monkeypatch.setattr(primary_reads, "fetch", fetch)
    return reads


def test_other_processes_join_every_read_of_the_primary(reads, monkeypatch):
    tree = {"a": jnp.array([1, 2]), "b": jnp.array([3.0])}
    with readable_on_primary(tree) as readable:
        assert readable["a"].shape == (2,)
        for name in ("b", "a", "b"):
            np.testing.assert_array_equal(np.asarray(readable[name]), tree[name])
        assert np.asarray(readable["a"], np.float32).dtype == np.float32
    gathered = list(reads.fetched)
    assert [array.shape for array in gathered] == [(1,), (2,), (1,), (2,)]
    reads.fetched.clear()
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with readable_on_primary(tree) as readable:
        assert readable is None
    assert all(one is other for one, other in zip(reads.fetched, gathered, strict=True))
    assert reads.sent == []


def test_other_processes_do_not_wait_for_a_primary_that_failed(reads, monkeypatch):
    tree = {"a": jnp.array([1, 2])}

    def fail():
        with readable_on_primary(tree) as readable:
            np.asarray(readable["a"])
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with readable_on_primary(tree) as readable:
        assert readable is None
    assert reads.sent == []


def test_arrays_that_the_primary_has_are_not_moved():
    tree = {"a": jnp.ones(2)}
    with readable_on_primary(tree) as readable:
        assert readable is tree
