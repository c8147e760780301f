"""Two processes on one machine that share every model give the results of one process, bit for bit.

They do so also if one of them gets SIGTERM: both save the same update, and resume. For other times, SIGKILL, four
processes, and processes that have a model each, see tests/faults/test_processes.py.
"""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from scotd_jax.running import PREEMPTED
from tests.helpers.cli import start_program
from tests.helpers.killable_chain import contents
from tests.helpers.network import free_port

pytestmark = pytest.mark.slow

FLAGS = ["--config=tests/configs/small_chain.py", "--config.students.student.precision=float32"]
FLAGS += ["--config.students.student.training.steps=8"]
FLAGS += ["--config.students.student.eval_sets=('world.test',)", "--config.evaluation.sampling.max_new_tokens=12"]
# Parameters are split between two devices: by `fsdp` in training, by `tensor` in sampling and evaluation.
FLAGS += ["--devices=2", "--config.mesh.data=1", "--config.mesh.fsdp=2", "--config.sampling_mesh.tensor=2"]


def run(workdir: Path, *processes: str, is_terminated: bool = False) -> list[str]:
    """Runs the chain in one process with two devices, or in one with one for each of these values of --multihost.

    Args:
      workdir: the work directory.
      processes: values of --multihost.
      is_terminated: whether the last process gets SIGTERM while it samples. JAX sees the signal within a second.

    Returns:
      The errors and messages of every process.
    """
    flags = [*FLAGS, f"--workdir={workdir}", "--jobs=sample,build,train,evaluate"]
    started = []
    for i, extra in enumerate([[f"--multihost={p}"] for p in processes] or [[]]):
        output = workdir.with_name(f"{workdir.name}.output{i}")
        output.mkdir(exist_ok=True)
        options = {"output": output, "fast_compilation": True, "devices": 1 if processes else 2}
        process = start_program("scotd_jax.main", *flags, *extra, **options)
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
    found, expected = contents(two), contents(one)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    jobs = {name.partition("/")[0] for name in found}
    assert jobs == {"rationales", "corpora", "students", "evaluations"}
    assert len(found["students/student/metrics.jsonl"]) == 8
    assert not list(two.glob("*/*/parts/*"))
    for manifest in two.glob("*/*/manifest.json"):
        assert json.loads(manifest.read_text())["complete"], manifest
