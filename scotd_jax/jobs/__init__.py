"""The jobs, one file each: they read artefacts, call the library and write artefacts."""

import importlib
from collections.abc import Callable


def load(job: str) -> Callable:
    """Returns the function `JOB(context, name)` of jobs/JOB.py. It is imported on first use."""
    return getattr(importlib.import_module(f"scotd_jax.jobs.{job}"), job)
