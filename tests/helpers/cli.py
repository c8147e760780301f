"""Runs the command line as users do: in a separate process, with one device, without the strict settings of tests."""

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers import fast_compile

ROOT = Path(__file__).parents[2]


def environment(hurry: bool = False) -> dict[str, str]:
    """Returns the environment of a user's process with one CPU device. `hurry`: see tests/helpers/fast_compile.py."""
    flags = {"XLA_FLAGS": fast_compile.flags()} if hurry else {}
    return {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | flags | {"JAX_PLATFORMS": "cpu"}


def run_cli(*flags: str, timeout: int = 600, hurry: bool = False) -> subprocess.CompletedProcess:
    """Runs `python -m scotd_jax.main` with these flags in the root of the project."""
    return subprocess.run(
        [sys.executable, "-m", "scotd_jax.main", *flags],
        cwd=ROOT,
        env=environment(hurry),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
