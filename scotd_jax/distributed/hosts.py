"""Coordination of the processes of one multi-host run.

Training is one program over the devices of all processes. For sampling, every data group (data_group.py) runs its own
questions through its copy of the model. Each sample has its own random key, so the samples do not depend on which group
generates them. Only the primary process writes manifests and merges files. All processes must have access to the same
work directory.
"""

import functools
import itertools
import json
import re
import socket
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from scotd_jax.distributed import watchdog
from scotd_jax.errors import InputError

_BARRIERS = itertools.count()  # numbers the barriers of this process, as all processes do: a name may be used once
_NAME_BYTES = 64


def initialize(multihost: str) -> None:
    """Connects this process to the others. Call it before any device is used.

    Args:
      multihost: "auto" where JAX detects the cluster (TPU, Slurm), else "HOST:PORT,PROCESS,PROCESSES".

    Raises:
      InputError: on any other value.
    """
    if multihost == "auto":
        jax.distributed.initialize()
        return
    parts = multihost.split(",")
    if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
        raise InputError(
            f"--multihost={multihost}: expected 'auto' or HOST:PORT,PROCESS,PROCESSES, e.g. 10.0.0.2:8476,0,4"
        )
    if jax.config.jax_platforms == "cpu":  # pyrefly: ignore[missing-attribute]
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(parts[0], int(parts[2]), int(parts[1]))


def disconnect() -> None:
    """Waits for the other processes before all of them exit: JAX aborts those that still run when another has ended."""
    if jax.process_count() > 1:
        jax.distributed.shutdown()


def check_device_count(expected: int) -> None:
    """Refuses a run on other devices than the launcher requested.

    JAX starts without an error on fewer devices: if a process sees only some GPUs (jax-ml/jax#16788,
    AI-Hypercomputer/maxtext#3433), if processes do not find each other, or on the CPU if a driver is missing.

    Args:
      expected: the number of devices in all processes together.

    Raises:
      InputError: if JAX finds more or fewer devices, or cannot use the requested platform.
    """
    try:
        found = jax.device_count()
    except RuntimeError as error:
        raise InputError(f"--devices={expected}: JAX cannot use its devices: {error}") from error
    if found != expected:
        raise InputError(
            f"--devices={expected}: JAX found {found} ({jax.devices()[0].platform}; this is process "
            f"{jax.process_index()} of {jax.process_count()} and has {jax.local_device_count()}). Check that every "
            "process sees its devices, and that --multihost connects all processes; or pass the number that is right"
        )


def is_primary() -> bool:
    """Returns whether this process writes manifests and merges files."""
    return jax.process_index() == 0


def sync_processes(barrier: str) -> None:
    """Blocks until every process has called this function with the same barrier name.

    If a process does not within `watchdog.BARRIER_MINUTES`, the others name it and end.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    limit = threading.Thread(target=_wait_for_all, args=(barrier, next(_BARRIERS)), daemon=True)
    limit.start()
    multihost_utils.sync_global_devices(barrier)  # raises if another process dies
    limit.join()
    _host_names()  # while all processes are here


def _wait_for_all(barrier: str, number: int) -> None:
    """Waits for all processes, or names the missing ones and ends this one.

    Other than a collective, a barrier of JAX's coordination service has a time limit and returns who is missing.
    """
    from orbax.checkpoint import multihost

    minutes = watchdog.BARRIER_MINUTES
    try:
        multihost.get_barrier_sync_fn()(key=f"scotd_jax {number} {barrier}", timeout_ms=int(60_000 * minutes))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" in str(error):
            watchdog.end_process(f"{_missing(str(error))} did not reach {barrier!r} in {minutes:g} minutes")


def _missing(message: str) -> str:
    """Describes the processes that the coordination service's message about a barrier names as missing.

    With JAX 0.10 these are lines with their numbers, after "Some timed out task names:" and before an empty line.
    """
    names = _host_names() if _host_names.cache_info().currsize else {}
    listed = message.partition("timed out task names:")[2].partition("\n\n")[0]
    numbers = map(int, re.findall(r"(\d+)$", listed, flags=re.M))
    return ", ".join(f"process {n}" + (f" ({names[n]})" if names else "") for n in numbers) or "another process"


@functools.cache
def _host_names() -> dict[int, str]:
    """The host of every process. The first call communicates, so all processes must make it."""
    from jax.experimental import multihost_utils

    own = np.frombuffer(socket.gethostname().encode()[:_NAME_BYTES].ljust(_NAME_BYTES), np.uint8)
    names = multihost_utils.process_allgather(own)
    return {i: bytes(name).decode(errors="replace").strip() for i, name in enumerate(np.asarray(names))}


def on_primary(compute: Callable[[], Any]) -> Any:
    """Calls `compute` on the primary process only and broadcasts its result.

    Args:
      compute: returns JSON data.

    Returns:
      The result, on every process.

    Raises:
      InputError: on every process, if `compute` raises it.
      RuntimeError: on the other processes, if `compute` raises another error, which stays as it is on the primary.
    """
    if jax.process_count() == 1:
        return compute()
    from jax.experimental import multihost_utils

    result: dict[str, Any] = {}
    error: Exception | None = None
    if is_primary():
        try:
            result = {"value": compute()}
        except Exception as raised:  # of any kind: the other processes wait for the broadcast
            error = raised
            is_input_error = isinstance(error, InputError)
            result = {"input error": str(error)} if is_input_error else {"error": f"{type(error).__name__}: {error}"}
    sync_processes("a result of the first process")  # within the time limit; the broadcasts have none
    text = json.dumps(result).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    buffer = np.frombuffer(text.ljust(size)[:size], np.uint8)  # only the primary's text is broadcast
    result = json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(buffer))))
    if error is not None:
        raise error
    if "input error" in result:
        raise InputError(result["input error"])
    if "error" in result:
        raise RuntimeError(f"the primary process failed: {result['error']}")
    return result["value"]


def local_share(items: list) -> list:
    """Returns this process's share of the items; the shares of all processes partition the list."""
    return items[jax.process_index() :: jax.process_count()]
