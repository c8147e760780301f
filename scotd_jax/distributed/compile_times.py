"""Records the duration of every XLA compilation, for the progress lines of this process."""

import functools
from typing import Any

import jax

from scotd_jax.progress import COMPILE_TIMES

_COMPILED = "/jax/core/compile/backend_compile_duration"  # of jax._src.dispatch, since JAX 0.4


@functools.cache
def report_compile_times() -> None:
    """Starts to record compilations in `progress.COMPILE_TIMES`. Further calls do nothing."""

    def record(event: str, duration_secs: float, **_: Any) -> None:
        if event == _COMPILED:
            COMPILE_TIMES.record(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(record)
