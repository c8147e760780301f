"""Processes that share models, and several devices, give the results of one process with one device."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.cli import start_program
from tests.helpers.network import free_port
from tests.helpers.tolerances import TRAJECTORY

pytestmark = [pytest.mark.slow, pytest.mark.faults]

FLAGS = ("--config=tests/configs/small_chain.py", "--jobs=sample,build,train,evaluate,export")
FLAGS += ("--config.students.student.precision=float32", "--config.students.student.training.steps=8")
FLAGS += ("--config.students.student.eval_sets=('world.test',)", "--config.students.student.export")
FLAGS += ("--config.evaluation.sampling.max_new_tokens=12", "--config.evaluation.self_consistency.max_new_tokens=12")
FLAGS += ("--config.evaluation.self_consistency.n=3",)
EIGHT_DEVICES = ("--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2")
PAIRS = ("--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.sampling_mesh.tensor=2")
ONE_COPY = ("--config.mesh.data=2", "--config.mesh.fsdp=2")
ONE_COPY += ("--config.sampling_mesh.fsdp=2", "--config.sampling_mesh.tensor=2")


def run(workdir: Path, processes: int = 1, devices: int = 1, flags: tuple[str, ...] = ()) -> Path:
    """Runs the chain in that many processes with that many devices each, and returns the work directory."""
    address, started = f"localhost:{free_port()}", []
    for i in range(processes):
        output = workdir.with_name(f"{workdir.name}.output{i}")
        output.mkdir()
        own = [f"--workdir={workdir}", f"--devices={processes * devices}"]
        own += [f"--multihost={address},{i},{processes}"] if processes > 1 else []
        options = {"output": output, "fast_compilation": True, "devices": devices}
        started.append((start_program("scotd_jax.main", *FLAGS, *flags, *own, **options), output / "stderr"))
    for process, errors in started:
        process.join(timeout=600)
        assert process.exitcode == 0, errors.read_text()
    assert not list(workdir.glob("*/*/parts/*"))
    return workdir


def rows(workdir: Path, pattern: str) -> Iterator[dict]:
    """The records of the files that match, in the order of the files."""
    paths = sorted(workdir.glob(pattern))
    assert paths, pattern
    for path in paths:
        yield from map(json.loads, path.read_text().splitlines())


@pytest.fixture(scope="module")
def one_device(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("one") / "run")


@pytest.mark.parametrize(
    ("processes", "devices", "flags"),
    [(2, 1, ()), (4, 1, ()), (4, 1, PAIRS), (4, 1, ONE_COPY), (1, 8, EIGHT_DEVICES)],
    ids=["two processes", "four processes", "two pairs of processes", "four processes, one copy", "eight devices"],
)
def test_results_do_not_depend_on_processes_and_devices(one_device, tmp_path, processes, devices, flags):
    workdir = run(tmp_path / "run", processes, devices, flags)
    for pattern in ("evaluations/*/*.responses.jsonl", *(() if flags else ("rationales/*/*.jsonl",))):
        found, expected = list(rows(workdir, pattern)), list(rows(one_device, pattern))
        logprobs = [[row.pop("logprob") for row in each] for each in (found, expected)]
        assert found == expected
        np.testing.assert_allclose(*logprobs, rtol=1e-3)
    losses = [[row["loss"] for row in rows(each, "students/*/metrics.jsonl")] for each in (workdir, one_device)]
    # Rounding errors grow with the number of updates. A lost or duplicated row would change the first loss.
    np.testing.assert_allclose(*losses, rtol=TRAJECTORY)
    samples = [
        {(r["question_id"], r["sample_index"]) for r in rows(w, "rationales/teacher/*.jsonl")}
        for w in (workdir, one_device)
    ]
    assert samples[0] == samples[1]
