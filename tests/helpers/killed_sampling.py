"""The sample job in processes that a test can kill, cheaply enough to do so many dozen times.

A process that starts anew imports for five seconds and compiles for two before it says a word. Here one process (the
fork server of the standard library) has everything imported and no device in use. Every run is a fork of it with
devices of its own, which takes what XLA compiled from a cache on the disk. So a run of the whole job, from the config
to the manifest, costs about one second, and it is the job itself: nothing in it is replaced.
"""

import json
import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import transformers  # noqa: F401  the tokenizer imports it when it is first needed: seconds in every fork
from jax.experimental import multihost_utils  # noqa: F401

from scotd_jax import config as c
from scotd_jax import main
from scotd_jax.jobs import sample  # noqa: F401
from scotd_jax.models import opt  # noqa: F401
from scotd_jax.tasks.registry import load_task
from tests.configs.cut import MODEL
from tests.end_to_end.test_two_processes import free_port
from tests.helpers.killed_disk import Disk, ResponseKey, look

SAID, QUESTIONS, SAMPLES, BATCH = "said", 80, 3, 2
TOTAL = QUESTIONS * SAMPLES
FILES = {f"responses-0000{i}-of-00004.jsonl" for i in range(4)}


def config() -> c.Config:
    """One set of samples of an untrained model, in many small batches: most of the run is sampling and writing."""
    options = {"train": QUESTIONS, "dev": 4, "test": 4, "unseen": 4, "longer": 4, "gold": 4, "statements": 4}
    sampling = c.Sampling(n=SAMPLES, max_new_tokens=12, batch_size=BATCH, bucket=64)
    said = c.ModelSource(questions=("world.train",), model=MODEL, sampling=sampling)
    return c.Config(name="killed", tasks={"world": c.Task(options=options)}, rationales={SAID: said})


def all_names() -> set[ResponseKey]:
    """What must be there in the end, told by the task alone."""
    task = load_task("world", config().tasks["world"], 0)
    return {(question.id, k) for question in task.questions("train") for k in range(SAMPLES)}


class Place(NamedTuple):
    """A work directory, and where its runs keep what XLA compiled and what they print."""

    workdir: Path
    cache: Path

    @property
    def folder(self) -> Path:
        return self.workdir / "rationales" / SAID

    @property
    def log(self) -> Path:
        return self.workdir.with_name(f"{self.workdir.name}.log")


def start(place: Place, hosts: int = 1, fills: bool = False) -> list[BaseProcess]:
    """The processes of one run. `fills`: what they compile is kept for others; not for runs that are to be killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    address = f"localhost:{free_port()}" if hosts > 1 else ""
    processes = []
    for host in range(hosts):
        multihost = f"{address},{host},{hosts}" if address else ""
        arguments = (str(place.workdir), str(place.log), str(place.cache / f"{host}-{hosts}"), fills, multihost)
        processes.append(context.Process(target=_sample, args=arguments))
        processes[-1].start()
    return processes


def _sample(workdir: str, log: str, cache: str, fills: bool, multihost: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.pop("XLA_FLAGS", None)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0 if fills else 1e9)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    _let_every_process_fill_its_cache()
    main.run(c.config_dict(config()), workdir, ("sample",), (), multihost)
    if multihost:
        # A process that a user starts does so as it exits; without it the host that ends first takes the other along.
        jax.distributed.shutdown()


def _let_every_process_fill_its_cache() -> None:
    """JAX lets only process 0 write to a cache, since it is mostly a shared one; the second host would compile anew in
    every run, for five seconds. If JAX keeps this elsewhere one day, nothing but that time comes back."""
    from jax._src import compiler

    compiler.distributed = SimpleNamespace(global_state=SimpleNamespace(process_id=0))


def finish(place: Place, hosts: int = 1, fills: bool = False) -> None:
    """A run that nobody kills."""
    wait(start(place, hosts, fills), place)


def wait(processes: Sequence[BaseProcess], place: Place) -> None:
    for process in processes:
        process.join(timeout=600)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * len(codes), f"{codes}\n{place.log.read_text()}"


def check_whole(place: Place, uncut: Disk, names: set[ResponseKey]) -> None:
    """Every name once, byte for byte what a run that nobody kills says, and nothing else in the folder."""
    disk = look(place.folder)
    lines = [line for data in disk.files.values() for line in data.splitlines()]
    assert len(lines) == len(disk.rows) == TOTAL
    assert disk.rows.keys() == names
    assert disk.files == uncut.files
    left = {p.name for p in place.folder.iterdir() if not p.name.startswith(".manifest.json.")}  # nobody sweeps these
    assert left == FILES | {"manifest.json"}
    assert json.loads((place.folder / "manifest.json").read_text())["complete"]
