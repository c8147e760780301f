"""The jobs, one per file. A job reads artefacts, calls the library and writes artefacts."""

import importlib
from collections.abc import Callable


def load(job: str) -> Callable:
    """Returns the function `JOB(context, name)` of jobs/JOB.py. It is imported on first use."""
    return getattr(importlib.import_module(f"scotd_jax.jobs.{job}"), job)
