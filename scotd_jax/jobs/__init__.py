"""What runs: one file per job. Each reads artefacts, calls the library, writes artefacts."""

import importlib
from collections.abc import Callable


def load(job: str) -> Callable:
    """The function `JOB(run, name)` of jobs/JOB.py; loaded when it runs, so that a job costs only what it imports."""
    return getattr(importlib.import_module(f"scotd_jax.jobs.{job}"), job)
