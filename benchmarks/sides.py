"""Two sides that are compared, each a process of its own: memory and compilations of one never count for the other.

A benchmark starts `python -m benchmarks.NAME_sides ROLE JSON`, JSON being the arguments of the role. Such a process is
told on its standard input what to do ("run", "facts", ...), one word per line, and answers each word with one JSON
object on its standard output. Between two words it sleeps. A role that is a function does one thing and ends.
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


class Side:
    """A process that plays `role` of the module benchmarks.`module`; ended with the block."""

    def __init__(self, module: str, role: str, *, one_arena: bool = False, large_pages: bool = False, **arguments: Any):
        """As the README advises for us on CPUs, glibc keeps one heap for all threads (`one_arena`), and asks for pages
        of 2 MiB where it is given memory (`large_pages`)."""
        command = [sys.executable, "-m", f"benchmarks.{module}", role, json.dumps(c.plain(arguments))]
        # Two processes share the device, so that neither may take all of its memory beforehand.
        env = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TOKENIZERS_PARALLELISM": "false"}
        if one_arena:
            env |= {"MALLOC_ARENA_MAX": "1"}
        if large_pages:
            env |= {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        self._role = role
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def ask(self, word: str) -> Any:
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._role} ended with status {self._process.wait()}; see its message above")
        return json.loads(line)


def once(module: str, role: str, **arguments: Any) -> Any:
    """The answer of a process that does one thing and ends."""
    with Side(module, role, **arguments) as side:
        return side.answer()


def play(roles: Mapping[str, Callable[..., Any]], convert: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The process of a side: reads role and arguments from the command line, `convert` makes objects of the latter."""
    role, arguments = roles[sys.argv[1]], convert(json.loads(sys.argv[2]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    made = role(**arguments)
    if not inspect.isclass(role):
        print(json.dumps(made), file=answers, flush=True)
        return
    for word in sys.stdin:
        print(json.dumps(getattr(made, word.strip())()), file=answers, flush=True)


def resident() -> tuple[float, float]:
    """MiB that this process holds, and the most that it held so far."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return tuple(int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MIB if sys.platform == "darwin" else 1024)
        return peak, peak


def device_peak() -> dict[str, float]:
    """`device_peak_mib` of JAX's first device, where it counts."""
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    return {"device_peak_mib": stats["peak_bytes_in_use"] / MIB} if "peak_bytes_in_use" in stats else {}


def peak_ratio(memory: Mapping[str, Mapping[str, float]]) -> float:
    """Ours over theirs; on an accelerator its own memory is what is scarce."""
    ours, theirs = (memory[name].get("device_peak_mib", memory[name]["peak_mib"]) for name in ("ours", "theirs"))
    return round(ours / theirs, 3)


def versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in libraries}


def described(device: str) -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, {device}"
