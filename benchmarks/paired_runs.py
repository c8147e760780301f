"""Worker processes of benchmarks that compare two implementations in alternating runs.

Each implementation runs in its own process, so that neither's memory and compilation affect the other's measurements. A
benchmark starts `python -m benchmarks.NAME_peers ROLE JSON` with the arguments of the role as JSON. If the role is a
class, the process creates one instance and calls its methods: it reads one method name per line from standard input and
writes every result as one line of JSON to standard output. If the role is a function, the process writes its result and
exits.
"""

import importlib.metadata
import inspect
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scotd_jax import config as c

MIB = 2**20
LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "torch", "transformers")


class Worker:
    """A process that runs one role of `benchmarks.MODULE`. It exits with the context."""

    def __init__(self, module: str, role: str, *, one_arena: bool = False, large_pages: bool = False, **arguments: Any):
        """Starts the process.

        Args:
          module: module that defines the role and calls `serve`.
          role: name of the class or function.
          one_arena: whether glibc uses one heap for all threads, as the documentation of scotd_jax recommends on CPUs.
          large_pages: whether glibc requests pages of 2 MiB.
          **arguments: arguments of the role: plain values or config dataclasses.
        """
        command = [sys.executable, "-m", f"benchmarks.{module}", role, json.dumps(c.plain(arguments))]
        # Two processes share the device, so neither may allocate all of its memory in advance.
        env = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TOKENIZERS_PARALLELISM": "false"}
        if one_arena:
            env |= {"MALLOC_ARENA_MAX": "1"}
        if large_pages:
            env |= {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        self._role = role
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def call(self, method: str) -> Any:
        """Calls a method of the role without arguments and returns its result."""
        self._process.stdin.write(f"{method}\n")
        self._process.stdin.flush()
        return self.read_result()

    def read_result(self) -> Any:
        """Returns the next result. Raises SystemExit if the process has ended without one."""
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._role} exited with status {self._process.wait()}; see its output above")
        return json.loads(line)


def run_once(module: str, role: str, **arguments: Any) -> Any:
    """Runs a function role in a new process and returns its result."""
    with Worker(module, role, **arguments) as worker:
        return worker.read_result()


def serve(roles: Mapping[str, Callable[..., Any]], convert: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Main function of a worker process.

    Args:
      roles: classes and functions by name; the command line selects one.
      convert: converts the decoded JSON into the keyword arguments of the role.
    """
    role, arguments = roles[sys.argv[1]], convert(json.loads(sys.argv[2]))
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # redirects the output of libraries to stderr, so that stdout contains only results
    result = role(**arguments)
    if not inspect.isclass(role):
        print(json.dumps(result), file=results, flush=True)
        return
    for method in sys.stdin:
        print(json.dumps(getattr(result, method.strip())()), file=results, flush=True)


def resident_mib() -> tuple[float, float]:
    """Returns the resident memory of this process and its peak, in MiB."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return tuple(int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MIB if sys.platform == "darwin" else 1024)
        return peak, peak


def device_peak() -> dict[str, float]:
    """Returns `device_peak_mib` of JAX's first device, or an empty dict if the device reports no memory statistics."""
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    return {"device_peak_mib": stats["peak_bytes_in_use"] / MIB} if "peak_bytes_in_use" in stats else {}


def peak_memory_ratio(memory: Mapping[str, Mapping[str, float]]) -> float:
    """Returns the ratio of the peak memories, scotd_jax to PyTorch: device memory if reported, else resident memory."""
    scotd, torch = (memory[name].get("device_peak_mib", memory[name]["peak_mib"]) for name in ("scotd", "torch"))
    return round(scotd / torch, 3)


def versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Returns the installed versions of libraries."""
    return {name: importlib.metadata.version(name) for name in libraries}


def describe_machine(device: str) -> str:
    """Returns a description like "x86_64, 2 cores, cpu"."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {device}"
