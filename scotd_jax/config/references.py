"""References between the entries of a config: which other entries an entry names, and the same entry with other names.

Standard library only, so that `--help` is fast.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from scotd_jax.config.rationale_sources import Model

SECTIONS = (
    "tasks",
    "rationales",
    "recipes",
    "corpora",
    "students",
    "evals",
)  # the parts of a config with named entries
TASK_TOKENIZER_PREFIX = "task:"  # before the names of the tasks whose texts a tokenizer is trained on

Entry = tuple[str, str]  # a section and a name in it

_QUESTION_SETS = ("questions", "dev_sets", "eval_sets")
_SECTION_OF_FIELD = {
    "rationales": "rationales",
    "rationales_from": "rationales",
    "responses": "rationales",
    "recipe": "recipes",
    "corpus": "corpora",
    "student": "students",
    "scored_by": "students",
    "failed_in": "rationales",
}


def map_references(entry: Any, rename: Callable[[str, str], str]) -> Any:
    """Returns an entry of a config (or a model) with `rename(section, name)` in place of every name that it contains.

    Names of built-in recipes are passed to `rename` too.
    """
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(entry):
        value = getattr(entry, field.name)
        if isinstance(value, Model):
            changes[field.name] = map_references(value, rename)
        elif field.name in _QUESTION_SETS:
            changes[field.name] = tuple(_rename_task(name, rename) for name in value)
        elif field.name == "mixture":
            changes[field.name] = {rename("tasks", task): share for task, share in value.items()}
        elif field.name == "tokenizer" and value.startswith(TASK_TOKENIZER_PREFIX):
            tasks = value.removeprefix(TASK_TOKENIZER_PREFIX).split(",")
            changes[field.name] = TASK_TOKENIZER_PREFIX + ",".join(rename("tasks", task) for task in tasks)
        elif value and (section := _SECTION_OF_FIELD.get(field.name)):
            is_name = isinstance(value, str)
            changes[field.name] = rename(section, value) if is_name else tuple(rename(section, name) for name in value)
    return dataclasses.replace(entry, **changes)


def references(entry: Any) -> set[Entry]:
    """Returns the entries that an entry of a config (or a model) names, whether they exist or not."""
    found: set[Entry] = set()

    def record(section: str, name: str) -> str:
        found.add((section, name))
        return name

    map_references(entry, record)
    return found


def _rename_task(set_name: str, rename: Callable[[str, str], str]) -> str:
    """A question set, "TASK.SPLIT" or a fold of it, with another task."""
    task, dot, split = set_name.rpartition(".")
    return f"{rename('tasks', task)}{dot}{split}"
