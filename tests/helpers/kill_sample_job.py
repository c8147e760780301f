"""The sample job in processes that start in about one second, so that a test can kill it dozens of times.

A new process imports for five seconds and compiles for two before it generates anything. Here every run is a fork of a
process that has imported everything (tests/helpers/fork_server.py) and loads compiled programs from a cache on disk. It
runs the complete, unmodified job, from config to manifest.
"""

import json
import os
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import jax

from scotd_jax import config as c
from scotd_jax.tasks.registry import load_task
from tests.configs.small_chain import MODEL
from tests.helpers.compilation_cache import use_compilation_cache
from tests.helpers.fork_server import start_process
from tests.helpers.kill_snapshots import ResponseKey, Snapshot, take_snapshot
from tests.helpers.network import free_port

NAME, QUESTIONS, SAMPLES, BATCH = "sampled", 80, 3, 2
TOTAL = QUESTIONS * SAMPLES
FILES = {f"responses-0000{i}-of-00004.jsonl" for i in range(4)}


def config() -> c.Config:
    """Returns a config with one set of samples in many small batches, so that a run mostly samples and writes."""
    options = {"train": QUESTIONS, "dev": 4, "test": 4, "unseen": 4, "longer": 4, "gold": 4, "statements": 4}
    sampling = c.Sampling(n=SAMPLES, max_new_tokens=12, batch_size=BATCH, bucket=64)
    source = c.ModelSource(questions=("world.train",), model=MODEL, sampling=sampling)
    return c.Config(name="killed", tasks={"world": c.Task(options=options)}, rationales={NAME: source})


def expected_keys() -> set[ResponseKey]:
    """Returns the keys of a complete set, computed from the task."""
    task = load_task("world", config().tasks["world"], 0)
    return {(question.id, k) for question in task.questions("train") for k in range(SAMPLES)}


class RunPaths(NamedTuple):
    """The paths of a run: work directory, compilation cache, folder of responses, and log."""

    workdir: Path
    cache: Path

    @property
    def folder(self) -> Path:
        return self.workdir / "rationales" / NAME

    @property
    def log(self) -> Path:
        return self.workdir.with_name(f"{self.workdir.name}.log")


def start(paths: RunPaths, hosts: int = 1, fill_cache: bool = False) -> list[BaseProcess]:
    """Starts the processes of one run. `fill_cache` keeps compiled programs; only for a run that is not killed."""
    address = f"localhost:{free_port()}" if hosts > 1 else ""
    processes = []
    for host in range(hosts):
        multihost = f"{address},{host},{hosts}" if address else ""
        cache = str(paths.cache / f"{host}-{hosts}")
        processes.append(start_process(_sample, str(paths.workdir), str(paths.log), cache, fill_cache, multihost))
    return processes


def _sample(workdir: str, log: str, cache: str, fill_cache: bool, multihost: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.pop("XLA_FLAGS", None)
    jax.config.update("jax_platforms", "cpu")
    use_compilation_cache(cache, fill_cache)
    from scotd_jax import main  # defines flags, which a process can define only once

    main.run(c.config_dict(config()), workdir, ("sample",), (), multihost)
    if multihost:
        # JAX does this when an ordinary process exits; without it the host that ends first terminates the other.
        jax.distributed.shutdown()


def finish(paths: RunPaths, hosts: int = 1, fill_cache: bool = False) -> None:
    """Runs the job without a kill."""
    wait(start(paths, hosts, fill_cache), paths)


def wait(processes: Sequence[BaseProcess], paths: RunPaths) -> None:
    """Waits for the processes and asserts that they succeed."""
    for process in processes:
        process.join(timeout=600)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * len(codes), f"{codes}\n{paths.log.read_text()}"


def check_complete(paths: RunPaths, uninterrupted: Snapshot, keys: set[ResponseKey]) -> None:
    """Asserts that the files are those of an uninterrupted run, with every key once, and that no other file exists."""
    snapshot = take_snapshot(paths.folder)
    lines = [line for data in snapshot.files.values() for line in data.splitlines()]
    assert len(lines) == len(snapshot.rows) == TOTAL
    assert snapshot.rows.keys() == keys
    assert snapshot.files == uninterrupted.files
    # No job removes partial manifests.
    names = {p.name for p in paths.folder.iterdir() if not p.name.startswith(".manifest.json.")}
    assert names == FILES | {"manifest.json"}
    assert json.loads((paths.folder / "manifest.json").read_text())["complete"]
