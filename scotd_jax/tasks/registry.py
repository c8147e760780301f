"""From a config's entry to a task."""

import difflib
from collections.abc import Callable

from scotd_jax import config
from scotd_jax.errors import InputError
from scotd_jax.tasks.base import Task
from scotd_jax.tasks.jsonl import jsonl
from scotd_jax.tasks.multiple_choice import multiple_choice
from scotd_jax.tasks.world import world

KINDS: dict[str, Callable[[str, config.Task, int], Task]] = {
    "world": world,
    "jsonl": jsonl,
    "multiple_choice": multiple_choice,
}


def load_task(name: str, task: config.Task, seed: int) -> Task:
    """The task that a config calls `name`. `seed` matters only to tasks that are generated.

    Raises InputError on an unknown kind, an unknown option or files that are not there.
    """
    if task.kind not in KINDS:
        near = difflib.get_close_matches(task.kind, KINDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(KINDS)}"
        raise InputError(f"config.tasks.{name}.kind: unknown kind {task.kind!r}; {hint}")
    return KINDS[task.kind](name, task, seed)
