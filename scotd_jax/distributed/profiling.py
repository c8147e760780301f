"""Profiling of a range of steps of a job: `--config.profile.first=10`.

A profile is a folder for TensorBoard or XProf; the `*.trace.json.gz` in it opens in https://ui.perfetto.dev. Profiling
slows the profiled steps down and does not change their results.
"""

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

import jax
from etils import epath

from scotd_jax.config import Profile
from scotd_jax.errors import InputError

Item = TypeVar("Item")
NO_PROFILE = Profile()


def profile_steps(
    items: Iterable[Item],
    profile: Profile,
    folder: epath.PathLike,
    start: int = 1,
    wait: Callable[[], object] = lambda: None,
) -> Generator[Item, None, None]:
    """Yields `items` and records a profile while items `profile.first` to `profile.last` are produced and consumed.

    Only the primary process records. Close the generator (`contextlib.closing`): a caller that leaves its loop early
    would otherwise not stop the profiler.

    Args:
      items: steps, or batches of a sampler.
      profile: range of steps; `first=0` disables profiling.
      folder: local folder of the profile.
      start: number of the first item.
      wait: blocks until the devices are idle; called before the profile is stopped.

    Raises:
      InputError: if `folder` is not on a local disk. The JAX profiler writes to local disks only.
    """
    if jax.process_index() != 0:
        profile = NO_PROFILE
    if profile.first and "://" in str(folder):
        raise InputError(f"{folder}: profiles go to local disks only; take a local --workdir, or no config.profile")
    return _profile(iter(items), profile, epath.Path(folder), start, wait)


def _profile(
    items: Iterator[Item], profile: Profile, folder: epath.Path, start: int, wait: Callable[[], object]
) -> Generator[Item, None, None]:
    last = max(profile.first, profile.last)
    with contextlib.ExitStack() as trace:
        for number in itertools.count(start):
            profiled = profile.first <= number <= last
            if profiled and number == max(start, profile.first):
                folder.mkdir(parents=True, exist_ok=True)
                jax.profiler.start_trace(str(folder))
                trace.callback(jax.profiler.stop_trace)
            with jax.profiler.StepTraceAnnotation("step", step_num=number) if profiled else contextlib.nullcontext():
                try:
                    item = next(items)
                except StopIteration:
                    return
                yield item
            if number == last:
                wait()
                trace.close()
