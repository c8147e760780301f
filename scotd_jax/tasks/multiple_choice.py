"""CommonsenseQA, OpenBookQA and ARC: one schema of JSON lines, answered by the letter of a choice.

A row is {"id", "question": {"stem", "choices": [{"label", "text"}]}, "answerKey"}. Labels are letters in most rows
and digits in some of ARC; students always see (a), (b), ..., so the key is mapped by the *position* of its label, and
rows have three, four or five choices. Runs of white space become one blank (some stems hold doubled blanks).

Options: `files`, file name per split (default: SPLIT.jsonl for every such file of the folder); `layout`, "line" for
"stem (a) .. (b) .." as SCoTD writes OpenBookQA and ARC, "block" for a line per choice as it writes CommonsenseQA.
"""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from scotd_jax import config
from scotd_jax.errors import InputError
from scotd_jax.records import Question
from scotd_jax.tasks.base import SplitTask, require_unique
from scotd_jax.tasks.formats import format_named, letters
from scotd_jax.tasks.jsonl import read_lines

LAYOUTS = ("line", "block")


def multiple_choice(name: str, task: config.Task, seed: int) -> SplitTask:
    """The task. Raises InputError on unknown options or files; a broken row is reported when its split is read."""
    del seed
    here = f"config.tasks.{name}"
    if unknown := sorted(set(task.options) - {"files", "layout"}):
        raise InputError(
            f"{here}.options.{unknown[0]}: a task of kind 'multiple_choice' has the options files and layout"
        )
    layout = task.options.get("layout", "line")
    if layout not in LAYOUTS:
        raise InputError(f"{here}.options.layout: {layout!r} is not one of {', '.join(LAYOUTS)}")
    if not task.path:
        raise InputError(f"{here}.path: a task of kind 'multiple_choice' needs the folder of its files")
    folder = epath.Path(task.path)
    files = task.options.get("files") or {f.name.removesuffix(".jsonl"): f.name for f in sorted(folder.glob("*.jsonl"))}
    if not isinstance(files, Mapping) or not files:
        raise InputError(f"{here}.options.files: expected a file name per split, and {folder} holds no SPLIT.jsonl")
    for file in files.values():
        if not (folder / file).exists():
            raise InputError(f"{here}.options.files: {folder / file}: no such file")
    loaders = {
        split: (lambda split=split, file=file: (_load(folder / file, name, split, layout), []))
        for split, file in files.items()
    }
    return SplitTask(name, format_named(task.format or "scotd", f"{here}.format"), loaders, task.limit)


def _load(path: epath.Path, name: str, split: str, layout: str) -> list[Question]:
    questions = [_question(line, where, name, split, layout) for where, line in read_lines(path)]
    require_unique(questions, str(path))
    return questions


def _question(line: str, where: str, name: str, split: str, layout: str) -> Question:
    try:
        row = json.loads(line)
        stem = _tidy(row["question"]["stem"])
        labels = [str(choice["label"]) for choice in row["question"]["choices"]]
        choices = tuple(_tidy(choice["text"]) for choice in row["question"]["choices"])
        key, identity = row.get("answerKey"), str(row["id"])
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not a JSON object ({error})") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{where}: expected {{"id", "question": {{"stem", "choices": [{{"label", "text"}}]}}, "answerKey"}}, '
            f"but reading it failed with {type(error).__name__}: {error}"
        ) from None
    if len(set(labels)) != len(labels) or not labels:
        raise InputError(f"{where}: expected choices with different labels, found {labels}")
    if key is not None and str(key) not in labels:
        raise InputError(f"{where}: answerKey {key!r} is not the label of a choice ({', '.join(labels)})")
    return Question(
        id=f"{name}/{split}/{identity}",
        task=name,
        split=split,
        text=_text(stem, choices, layout),
        choices=choices,
        answer=None if key is None else letters(len(labels))[labels.index(str(key))],
    )


def _text(stem: str, choices: tuple[str, ...], layout: str) -> str:
    options = [f"{letter} {text}" for letter, text in zip(letters(len(choices)), choices, strict=True)]
    if layout == "block":
        return "\n".join([stem, "Answer Choices:", *options])
    return " ".join([stem, *options])


def _tidy(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"expected text, found {text!r}")
    return " ".join(text.split())
