"""Fuzzers: every reader ends in the documented error on mutated files, and neither hangs nor takes much memory.

`make test` mutates a few times, always in the same way. `make test-faults` mutates FUZZ_BYTES bytes for every reader,
in another way each time. An input that failed becomes an example in test_input.py.
"""

import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from scotd_jax.errors import InputError
from tests.helpers.fuzzed_readers import READERS, Reader
from tests.helpers.mutations import MUTATIONS, mutate

FUZZ_BYTES = int(os.environ.get("FUZZ_BYTES", "10_000_000"))
MAX_SECONDS = 20  # for one input
MAX_GROWTH = 2**19  # KiB by which the memory of the process may grow over all inputs


class HangError(BaseException):
    """A reader that does not end. Not an Exception, so that no reader catches it."""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    def end(number: int, frame: Any) -> None:
        del number, frame
        raise HangError(f"no end after {MAX_SECONDS} s")

    previous = signal.signal(signal.SIGALRM, end)
    signal.alarm(MAX_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def fuzz(reader: Reader, folder: Path, examples: int, seed: int) -> int:
    """Reads mutated inputs; hypothesis reduces one that fails. Returns their size in bytes."""
    size = 0

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=examples, database=None, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(MUTATIONS)
    def check(mutations):
        nonlocal size
        content = reader.wrap(mutate(reader.document, mutations))
        size += len(content)
        with contextlib.suppress(InputError), time_limit():
            reader.read(folder, content)

    check()
    return size


@pytest.fixture
def reader(request, tmp_path) -> Reader:
    (tmp_path / "valid").mkdir()
    found = READERS[request.param](tmp_path / "valid")
    found.prepare(tmp_path)
    found.read(tmp_path, found.wrap(found.document))  # a valid document is accepted
    return found


@pytest.mark.parametrize(
    "reader", [pytest.param(name, marks=[pytest.mark.slow] * (name == "tokenizer")) for name in READERS], indirect=True
)
def test_mutated_files_end_in_the_documented_error(reader, tmp_path):
    fuzz(reader, tmp_path, examples=6, seed=0)


@pytest.mark.faults
@pytest.mark.parametrize("reader", READERS, indirect=True)
def test_many_mutated_files_end_in_the_documented_error(reader, tmp_path, fault_seed, record_property):
    read, rounds, before = 0, 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while read < FUZZ_BYTES:
        read += fuzz(reader, tmp_path, examples=500, seed=fault_seed + rounds)
        rounds += 1
    record_property("bytes", read)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert growth < MAX_GROWTH, f"{growth} KiB"
