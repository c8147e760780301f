"""Two processes on one machine write the same rows as one process, and train equally up to rounding.

They do so also if one of them gets SIGTERM: both save the same update, and resume. For other times, SIGKILL and four
processes see tests/faults/test_processes.py.
"""

import json
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from scotd_jax.running import PREEMPTED
from tests.helpers.cli import start_program
from tests.helpers.network import free_port
from tests.helpers.tolerances import TRAJECTORY

pytestmark = pytest.mark.slow

FLAGS = ["--config=tests/configs/small_chain.py", "--config.students.student.precision=float32"]
FLAGS += ["--config.students.student.training.steps=8"]


def run(workdir: Path, *processes: str, is_terminated: bool = False) -> list[str]:
    """Runs the chain in one process, or in one process, with one device, for each of these values of --multihost.

    Args:
      workdir: the work directory.
      processes: values of --multihost.
      is_terminated: whether the last process gets SIGTERM while it samples. JAX sees the signal within a second.

    Returns:
      The errors and messages of every process.
    """
    flags = [*FLAGS, f"--workdir={workdir}", "--jobs=sample,build,train"]
    started = []
    for i, extra in enumerate([[f"--multihost={p}", f"--devices={len(processes)}"] for p in processes] or [[]]):
        output = workdir.with_name(f"{workdir.name}.output{i}")
        output.mkdir(exist_ok=True)
        process = start_program("scotd_jax.main", *flags, *extra, output=output, fast_compilation=True)
        started.append((process, output / "stderr"))
    if is_terminated:
        while process.is_alive() and not list(workdir.glob("rationales/teacher/parts/*.jsonl")):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGTERM)
    for process, errors in started:
        process.join(timeout=600)
        assert process.exitcode == (PREEMPTED if is_terminated else 0), errors.read_text()
    return [errors.read_text() for _, errors in started]


def test_two_processes_of_which_one_gets_sigterm_match_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run(one)
    address = f"localhost:{free_port()}"
    processes = f"{address},0,2", f"{address},1,2"
    ends = [
        re.findall(r"SIGTERM in .*of update (\d) is saved", text) for text in run(two, *processes, is_terminated=True)
    ]
    assert len(ends[0]) == 1
    assert ends[0] == ends[1], "both save the same update"
    run(two, *processes)
    for name in ("teacher", "gold"):
        rows = [
            [line for path in sorted(d.glob(f"rationales/{name}/*.jsonl")) for line in path.read_text().splitlines()]
            for d in (one, two)
        ]
        assert rows[0] == rows[1]
        assert not list(two.glob(f"rationales/{name}/parts/*"))
    losses = [
        [json.loads(line)["loss"] for line in (d / "students/student/metrics.jsonl").read_text().splitlines()]
        for d in (one, two)
    ]
    assert len(losses[0]) == len(losses[1]) == 8
    # Rounding errors grow with the number of updates. A lost or duplicated row would change the first loss.
    np.testing.assert_allclose(losses[0], losses[1], rtol=TRAJECTORY)
    for manifest in two.glob("*/*/manifest.json"):
        assert json.loads(manifest.read_text())["complete"], manifest
