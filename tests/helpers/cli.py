"""Runs the command line as users do: in a separate process, with one device, without the strict settings of tests."""

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers import fast_compile

ROOT = Path(__file__).parents[2]


def environment(fast_compilation: bool = False) -> dict[str, str]:
    """Returns the environment of a process with one CPU device.

    `fast_compilation` sets the compiler options of tests/helpers/fast_compile.py.
    """
    flags = {"XLA_FLAGS": fast_compile.flags()} if fast_compilation else {}
    return {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | flags | {"JAX_PLATFORMS": "cpu"}


def run_cli(*flags: str, timeout: int = 600, fast_compilation: bool = False) -> subprocess.CompletedProcess:
    """Runs `python -m scotd_jax.main` with these flags in the root of the repository."""
    return subprocess.run(
        [sys.executable, "-m", "scotd_jax.main", *flags],
        cwd=ROOT,
        env=environment(fast_compilation),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
