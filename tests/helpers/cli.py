"""Runs programs as users do: in separate processes, with one device, without the strict settings of tests."""

import atexit
import os
import runpy
import subprocess
import sys
import tempfile
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.helpers import fast_compile
from tests.helpers.fork_server import start_process

ROOT = Path(__file__).parents[2]


def environment(fast_compilation: bool = False, devices: int = 1) -> dict[str, str]:
    """Returns the environment of a process with that many CPU devices.

    `fast_compilation` sets the compiler options of tests/helpers/fast_compile.py.
    """
    flags = [fast_compile.flags()] if fast_compilation else []
    flags += [f"--xla_force_host_platform_device_count={devices}"] if devices > 1 else []
    others = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return others | ({"XLA_FLAGS": " ".join(flags)} if flags else {}) | {"JAX_PLATFORMS": "cpu"}


def run_cli(
    *flags: str, timeout: int = 600, fast_compilation: bool = False, new_interpreter: bool = False
) -> subprocess.CompletedProcess:
    """Runs `python -m scotd_jax.main` with these flags in the root of the repository.

    Args:
      flags: flags of the command line.
      timeout: seconds after which the process is killed.
      fast_compilation: whether to compile as in tests/helpers/fast_compile.py.
      new_interpreter: whether to start a new interpreter. By default the process is a fork of one that has imported
        the libraries (tests/helpers/fork_server.py).
    """
    if not new_interpreter:
        return run_program("scotd_jax.main", *flags, timeout=timeout, fast_compilation=fast_compilation)
    return subprocess.run(
        [sys.executable, "-m", "scotd_jax.main", *flags],
        cwd=ROOT,
        env=environment(fast_compilation),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run_program(
    program: str, *flags: str, timeout: int = 600, fast_compilation: bool = False
) -> subprocess.CompletedProcess:
    """Runs a module, or a script if its name ends in ".py", in a fork of the fork server."""
    with tempfile.TemporaryDirectory() as folder:
        process = start_program(program, *flags, output=Path(folder), fast_compilation=fast_compilation)
        process.join(timeout)
        status = process.exitcode
        process.kill()
        process.join()
        outputs = [Path(folder, name).read_text() for name in ("stdout", "stderr")]
    if status is None:
        raise subprocess.TimeoutExpired([program, *flags], timeout, *outputs)
    return subprocess.CompletedProcess([program, *flags], status, *outputs)


def start_program(
    program: str, *flags: str, output: Path, fast_compilation: bool = False, devices: int = 1
) -> BaseProcess:
    """Starts a program as `run_program` does, and writes the files `stdout` and `stderr` into the folder `output`."""
    for name in ("stdout", "stderr"):
        (output / name).touch()
    return start_process(_run, program, flags, str(output), environment(fast_compilation, devices))


def _run(program: str, flags: tuple[str, ...], output: str, environ: dict[str, str]) -> None:
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{output}/{name}", os.O_WRONLY | os.O_APPEND), descriptor)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(ROOT)
    sys.argv = [program, *flags]
    try:
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # as an interpreter does; a fork ends without them
