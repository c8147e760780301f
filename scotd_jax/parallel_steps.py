"""Several steps of a run at a time: each runs in a thread of its own, on a share of the devices of its own.

A step starts as soon as the steps that it needs are done and a share of the devices is free.
"""

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import jax

from scotd_jax.errors import InputError
from scotd_jax.preemption import Preempted, wait_until_saved

Step = TypeVar("Step")
Share = TypeVar("Share")


def run_parallel(
    steps: Sequence[Step],
    needs: Callable[[Step], Iterable[Step]],
    shares: Sequence[Share],
    run: Callable[[Step, Share], None],
) -> None:
    """Runs all steps, as many at a time as there are shares.

    Args:
      steps: the steps in an order in which each comes after those that it needs.
      needs: the steps that a step needs. Those that are not in `steps` are done.
      shares: what each running step uses alone.
      run: runs one step on a share.

    Raises:
      BaseException: the first that a step raises. No step starts after it, and those that are running end first, except
        after Ctrl-C and SIGTERM; after SIGTERM every training has saved its update.
    """
    waiting, free = list(steps), list(shares)
    running: dict[concurrent.futures.Future, tuple[Step, Share]] = {}
    pool = concurrent.futures.ThreadPoolExecutor(len(free), thread_name_prefix="step")
    try:
        while waiting or running:
            unfinished = [*waiting, *(step for step, _ in running.values())]
            ready = [step for step in waiting if not any(needed in unfinished for needed in needs(step))]
            for step in ready[: len(free)]:
                waiting.remove(step)
                share = free.pop(0)
                running[pool.submit(run, step, share)] = step, share
            done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                free.append(running.pop(future)[1])
                future.result()
    except KeyboardInterrupt as interrupt:
        pool.shutdown(wait=False)
        if isinstance(interrupt, Preempted):
            wait_until_saved()
        raise
    except BaseException:
        pool.shutdown()
        raise
    pool.shutdown()


def default_device(mesh: jax.sharding.Mesh) -> contextlib.AbstractContextManager:
    """Returns a context in which this thread creates arrays on the first device of a mesh."""
    return jax.default_device(mesh.devices.flat[0])


def device_shares(parts: int) -> list[Sequence[jax.Device] | None]:
    """Returns equal parts of the devices, each of consecutive ones; [None], for all of them, if `parts` is 1.

    Raises:
      InputError: if the devices cannot be divided into so many, or belong to several processes.
    """
    if parts == 1:
        return [None]
    if jax.process_count() > 1:
        raise InputError(f"--parallel={parts}: a run of several processes makes one step at a time")
    devices = jax.devices()
    if len(devices) % parts:
        raise InputError(f"--parallel={parts}: cannot divide the {len(devices)} devices of this run into equal parts")
    size = len(devices) // parts
    return [devices[i * size : (i + 1) * size] for i in range(parts)]
