"""Memory of every host while several hosts share one teacher.

    python -m benchmarks.sampling_hosts [--hosts=4] [--tensor=2] [--layers=5] [--width=3840] [--files=8]

Writes a random OPT in float16 (2 GiB with the defaults) in several files and runs the sample job with it, in that many
processes with one CPU device each, which stand for hosts. The rest of the hosts that `--tensor` leaves shard by fsdp.
`allocated_bytes` is the peak of what a process allocates from the moment before it loads the teacher, its devices'
memory included. `resident_bytes` also counts the pages of the weight files that are mapped at the peak. The largest
allocation should stay below `limit_bytes`, 1 GiB.
"""

import argparse
import json
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.import_memory import write
from benchmarks.paired_runs import versions
from scotd_jax import config as c
from scotd_jax.models.hf.weight_files import SAFETENSORS
from scotd_jax.models.opt_config import OPTConfig

LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "safetensors")
LIMIT = 2**30
PERIOD = 0.01  # seconds between two measurements


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--tensor", type=int, default=2, help="hosts between which heads and hidden units are split")
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--width", type=int, default=3840)
    parser.add_argument("--files", type=int, default=8, help="number of weight files")
    parser.add_argument("--run", help="run as one host: FOLDER,HOST:PORT,PROCESS,PROCESSES (used by the benchmark)")
    args = parser.parse_args()
    if args.run:
        folder, multihost = args.run.split(",", 1)
        print(json.dumps(run(Path(folder), multihost, args.hosts, args.tensor)))
        return
    config = OPTConfig(
        hidden_size=args.width, num_hidden_layers=args.layers, num_attention_heads=32, ffn_dim=4 * args.width
    )
    with tempfile.TemporaryDirectory() as folder:
        teacher = Path(folder) / "teacher"
        teacher.mkdir()
        write(teacher, config, SAFETENSORS, args.files)
        size = sum(file.stat().st_size for file in teacher.iterdir())
        hosts = start(Path(folder), args)
    largest = max(host["allocated_bytes"] for host in hosts)
    output = {
        "benchmark": "sampling_hosts",
        "teacher_bytes": size,
        "largest_allocated_bytes": largest,
        "limit_bytes": LIMIT,
        "within_limit": largest <= LIMIT,
        "hosts": hosts,
        **{name: getattr(args, name) for name in ("tensor", "layers", "width", "files")},
        "versions": versions(LIBRARIES),
    }
    print(json.dumps(output | {"device": f"{platform.machine()}, {os.cpu_count()} cores"}))


def start(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs all hosts in new processes and returns their measurements."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "benchmarks.sampling_hosts", f"--hosts={args.hosts}", f"--tensor={args.tensor}"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    children = [
        subprocess.Popen(
            [*command, f"--run={folder},{address},{i},{args.hosts}"],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for i in range(args.hosts)
    ]
    outputs = [child.communicate()[0] for child in children]
    if failed := [child.returncode for child in children if child.returncode]:
        raise SystemExit(f"a host ended with status {failed[0]}")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def run(folder: Path, multihost: str, hosts: int, tensor: int) -> dict[str, Any]:
    """Samples as one of the hosts and returns the peak of its memory, less the memory before."""
    import transformers  # noqa: F401  before the measurement

    from scotd_jax.distributed import hosts as processes
    from scotd_jax.jobs.context import make_context
    from scotd_jax.jobs.sample import sample
    from scotd_jax.workdir import Workdir

    processes.initialize(multihost)
    workdir = Workdir(str(folder / "run"), writes=processes.is_primary())
    context = make_context(sampling_config(folder / "teacher", hosts // tensor, tensor), workdir)
    processes.sync_processes("all hosts are ready")
    start = time.perf_counter()
    with PeakMemory() as peak:
        sample(context, "teacher")
    return {"allocated_bytes": peak.allocated, "resident_bytes": peak.resident} | {
        "seconds": round(time.perf_counter() - start, 1)
    }


def sampling_config(teacher: Path, fsdp: int, tensor: int) -> c.Config:
    """Returns a config that samples a few responses from the teacher."""
    sizes = {"train": 8, "dev": 4, "test": 4, "unseen": 4, "longer": 4, "gold": 4, "statements": 4}
    source = c.ModelSource(
        questions=("world.train",),
        model=c.Model(path=str(teacher), tokenizer="task:world"),
        sampling=c.Sampling(n=2, max_new_tokens=8, batch_size=4, bucket=64),
    )
    return c.Config(
        name="sampling on several hosts",
        tasks={"world": c.Task(options=sizes)},
        rationales={"teacher": source},
        sampling_mesh=c.SamplingMesh(fsdp=fsdp, tensor=tensor),
    )


class PeakMemory:
    """Measures this process in a thread (Linux), relative to the memory at its start.

    Attributes:
      allocated: peak of the anonymous memory in bytes: everything but mapped files.
      resident: peak of the resident memory in bytes.
    """

    def __enter__(self) -> "PeakMemory":
        self.allocated = self.resident = 0
        self._start, self._ended = memory(), threading.Event()
        self._thread = threading.Thread(target=self._measure)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _measure(self) -> None:
        while not self._ended.wait(PERIOD):
            anonymous, resident = (now - before for now, before in zip(memory(), self._start, strict=True))
            self.allocated, self.resident = max(self.allocated, anonymous), max(self.resident, resident)


def memory() -> tuple[int, int]:
    """Returns the anonymous and the resident memory of this process in bytes."""
    status = Path("/proc/self/status").read_text()
    found = {name: int(size) * 1024 for name, size in re.findall(r"(RssAnon|VmRSS):\s+(\d+) kB", status)}
    return found["RssAnon"], found["VmRSS"]


if __name__ == "__main__":
    main()
