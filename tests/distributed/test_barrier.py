"""Two processes, of which one does not reach a barrier: the other names it and ends."""

import socket

import pytest

from scotd_jax import running
from tests.helpers.cli import start_program
from tests.helpers.network import free_port


@pytest.mark.slow
def test_process_that_does_not_reach_a_barrier_is_named_with_its_host(tmp_path):
    address, processes = f"localhost:{free_port()}", []
    for number in (0, 1):
        (tmp_path / str(number)).mkdir()
        flags = f"{address},{number},2", "1"
        processes.append(start_program("tests.helpers.waiting_process", *flags, output=tmp_path / str(number)))
    processes[0].join(60)
    errors = (tmp_path / "0/stderr").read_text()
    for process in processes:
        process.kill()
        process.join()
    assert processes[0].exitcode == running.PREEMPTED, errors
    missing = f"process 1 ({socket.gethostname()}) did not reach 'the second barrier' in 0.02 minutes"
    assert f"error: process 0 of 2: {missing}; the same command resumes" in errors
    assert "Current thread" in errors
