"""The door as a user opens it: in a process of its own, with one device and without the strict settings of tests."""

import os
import subprocess
import sys
from pathlib import Path

from tests import compiler

ROOT = Path(__file__).parents[1]


def door(*flags: str, timeout: int = 600, hurry: bool = False) -> subprocess.CompletedProcess:
    """`python -m scotd_jax.main` with these flags, in the root of the project. `hurry`: see tests/compiler.py."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    if hurry:
        environment["XLA_FLAGS"] = compiler.flags()
    return subprocess.run(
        [sys.executable, "-m", "scotd_jax.main", *flags],
        cwd=ROOT,
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
