"""Task registry: loads a task from its config entry.

A custom task is a Python file whose path is the `kind`. It defines a function `question(row)` that converts a row to a
`Question` (tasks/row_task.py), and optionally `rationales(row)`, which returns the rationales that come with a row, and
`FILES`, a file name per split. A task that is not made of rows defines a function `task(name, spec, seed)` instead,
which returns a `LoadedTask`.
"""

import functools
from collections.abc import Callable

from scotd_jax import config
from scotd_jax.errors import InputError, did_you_mean
from scotd_jax.local_files import load_python_file
from scotd_jax.tasks import arithmetic, multiple_choice, nli, row_task, sentiment, yes_no
from scotd_jax.tasks.base import LoadedTask, SplitTask
from scotd_jax.tasks.exemplars import SPLIT as EXEMPLARS
from scotd_jax.tasks.exemplars import default_exemplars, exemplar_split
from scotd_jax.tasks.jsonl import jsonl
from scotd_jax.tasks.quarel import QUAREL
from scotd_jax.tasks.world import world

TaskFactory = Callable[[str, config.Task, int], LoadedTask]

DATASETS = {
    "multiple_choice": multiple_choice.MULTIPLE_CHOICE,
    "commonsenseqa": multiple_choice.COMMONSENSEQA,
    "openbookqa": multiple_choice.OPENBOOKQA,
    "quarel": QUAREL,
    "sst2": sentiment.SST2,
    "imdb": sentiment.IMDB,
    "strategyqa": yes_no.STRATEGYQA,
    "boolq": yes_no.BOOLQ,
    "gsm8k": arithmetic.GSM8K,
    "svamp": arithmetic.SVAMP,
    "anli": nli.ANLI,
    "esnli": nli.ESNLI,
}
KINDS: dict[str, TaskFactory] = {
    "world": world,
    "jsonl": jsonl,
    "arc": multiple_choice.arc,
    **{kind: functools.partial(row_task.load, dataset) for kind, dataset in DATASETS.items()},
}


def load_task(name: str, task: config.Task, seed: int) -> LoadedTask:
    """Loads a task.

    Args:
      name: key of the task in the config.
      task: its config entry.
      seed: seed of generated tasks; others ignore it.

    Raises:
      InputError: on an unknown kind, an unknown option or missing files.
    """
    if task.kind.endswith(".py"):
        loaded = _custom(task.kind, f"config.tasks.{name}.kind")(name, task, seed)
    elif task.kind in KINDS:
        loaded = KINDS[task.kind](name, task, seed)
    else:
        hint = did_you_mean(task.kind, [*KINDS, "the path of a Python file"])
        raise InputError(f"config.tasks.{name}.kind: unknown kind {task.kind!r}; {hint}")
    if isinstance(loaded, SplitTask) and (task.exemplars or default_exemplars(loaded)):
        loaded.add_split(EXEMPLARS, functools.partial(exemplar_split, task.exemplars, loaded))
    return loaded


def _custom(path: str, where: str) -> TaskFactory:
    """Returns the factory that the Python file at `path` defines."""
    module = load_python_file(path, where)
    if hasattr(module, "task"):
        return module.task
    if not hasattr(module, "question"):
        raise InputError(f"{where}: {path}: defines neither question(row) nor task(name, spec, seed)")
    files = {split: (file,) for split, file in getattr(module, "FILES", {}).items()}
    optional = {"rationales": module.rationales} if hasattr(module, "rationales") else {}
    return functools.partial(row_task.load, row_task.Dataset(module.question, files, **optional))
