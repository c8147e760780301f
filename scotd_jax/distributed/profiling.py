"""A recording of what host and devices did during some steps of a job: `--config.profile.first=10`.

It is a folder that TensorBoard and XProf open, with a `*.trace.json.gz` in it for https://ui.perfetto.dev. Recording
slows the recorded steps down and changes none of their results.
"""

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

import jax
from etils import epath

from scotd_jax.config import Profile
from scotd_jax.errors import InputError

Item = TypeVar("Item")
OFF = Profile()


def recorded(
    items: Iterable[Item],
    profile: Profile,
    folder: epath.PathLike,
    start: int = 1,
    wait: Callable[[], object] = lambda: None,
) -> Generator[Item, None, None]:
    """The same items; while those numbered `profile.first` to `profile.last` are made and used, a recording runs.

    The first item has the number `start`. `wait()` is called before the recording ends and returns when the devices
    have done what they were given. Only the first process records. To be closed, or a recording may go on for ever
    (`contextlib.closing`). Raises InputError if `folder` is not on a local disk: the recorder writes no other.
    """
    if jax.process_index() != 0:
        profile = OFF
    if profile.first and "://" in str(folder):
        raise InputError(f"{folder}: profiles go to local disks only; take a local --workdir, or no config.profile")
    return _recorded(iter(items), profile, epath.Path(folder), start, wait)


def _recorded(items, profile, folder, start, wait):
    last = max(profile.first, profile.last)
    with contextlib.ExitStack() as recording:
        for number in itertools.count(start):
            wanted = profile.first <= number <= last
            if wanted and number == max(start, profile.first):
                folder.mkdir(parents=True, exist_ok=True)
                jax.profiler.start_trace(str(folder))
                recording.callback(jax.profiler.stop_trace)
            with jax.profiler.StepTraceAnnotation("step", step_num=number) if wanted else contextlib.nullcontext():
                try:
                    item = next(items)
                except StopIteration:
                    return
                yield item
            if number == last:
                wait()
                recording.close()
