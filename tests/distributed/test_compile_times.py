"""The listener that reports compilations of JAX."""

import jax
import numpy as np

from scotd_jax.distributed.compile_times import report_compile_times
from scotd_jax.progress import COMPILE_TIMES


def test_compilations_are_recorded_once_each():
    report_compile_times()
    report_compile_times()  # adds no second listener
    seconds: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        listener := lambda event, duration, **_: seconds.append(duration) if "backend_compile" in event else None
    )
    before = COMPILE_TIMES.total
    function = jax.jit(lambda x: x * 3 + 1)
    function(np.float32(2))
    jax.monitoring.unregister_event_duration_listener(listener)
    assert seconds
    assert np.isclose(COMPILE_TIMES.total - before, sum(seconds))
    before = COMPILE_TIMES.total
    function(np.float32(3))
    assert COMPILE_TIMES.total == before
