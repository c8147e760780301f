"""CommonsenseQA, OpenBookQA, ARC and custom multiple choice: the answer is the letter of a choice.

An official row is {"id", "question": {"stem", "choices": [{"label", "text"}]}, "answerKey"}. The dataset libraries
deliver "question" (or "question_stem") and "choices" as separate fields, and choices as {"label": [...], "text":
[...]}. Custom files may list the texts alone, which are then labelled A, B, C, ... Labels are letters in most rows and
digits in some of ARC. Prompts always use (a), (b), ..., so the answer key is mapped by the *position* of its label,
never by the text of a choice, which may occur twice. ARC rows have three, four or five choices.

Options:
  layout: "line" gives "stem (a) .. (b) ..", as SCoTD does for OpenBookQA and ARC; "block" puts every choice on its own
    line, as it does for CommonsenseQA.
  part: "Easy" or "Challenge" (ARC only); by default the one that the task's name contains.
"""

import dataclasses
import string
from collections.abc import Mapping
from typing import Any

from scotd_jax import config
from scotd_jax.errors import InputError, list_names
from scotd_jax.records import Question
from scotd_jax.tasks.prompt_formats import choice_letters
from scotd_jax.tasks.row_task import DataRow, Dataset, RowTask, load, tidy


def choice_question(row: DataRow) -> Question:
    """Returns a question with all choices in its text; the answer is "(b)" for the second choice."""
    nested = row["question"] if isinstance(row.get("question"), Mapping) else row
    stem = tidy(nested.get("stem") or row.get("question_stem") or row["question"])
    labels, choices = _choices(nested)
    key = row.get("answerKey")
    if len(set(labels)) != len(labels) or not labels:
        raise InputError(f"{row.where}: expected choices with different labels, found {labels}")
    if key in (None, "", -1):
        answer = None
    elif str(key) in labels:
        answer = choice_letters(len(labels))[labels.index(str(key))]
    else:
        raise InputError(f"{row.where}: answerKey {key!r} is not the label of a choice ({list_names(labels)})")
    options = [f"{letter} {text}" for letter, text in zip(choice_letters(len(choices)), choices, strict=True)]
    if row.options["layout"] == "block":
        text = row.lines(stem, "Answer Choices:", *options)
    else:
        text = " ".join([stem, *options])
    return row.question(text, answer, choices, id=row.get("id"))


def _choices(fields: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Returns labels and texts of the choices."""
    if "choice_A" in fields:  # OpenBookQA in tfds, where the key is the index of a choice
        texts = [fields[f"choice_{letter}"] for letter in "ABCD"]
        return list("0123"), [tidy(text) for text in texts]
    choices = fields["choices"]
    if isinstance(choices, Mapping):
        labels, texts = choices["label"], choices["text"]
    elif all(isinstance(choice, str) for choice in choices):
        labels, texts = string.ascii_uppercase[: len(choices)], choices
    else:
        labels, texts = [choice["label"] for choice in choices], [choice["text"] for choice in choices]
    return [str(label) for label in labels], [tidy(text) for text in texts]


MULTIPLE_CHOICE = Dataset(
    choice_question,
    options={"layout": ("line", "block")},
    expected='{"id", "question": {"stem", "choices": [{"label", "text"}]}, "answerKey"}',
)
COMMONSENSEQA = dataclasses.replace(
    MULTIPLE_CHOICE,
    files={
        "train": ("train_rand_split.jsonl",),
        "dev": ("dev_rand_split.jsonl",),
        "test": ("test_rand_split_no_answers.jsonl",),
    },
    options={"layout": ("block", "line")},
    exemplars="commonsenseqa",
)
OPENBOOKQA = dataclasses.replace(
    MULTIPLE_CHOICE,
    files={split: (f"{split}.jsonl", f"{split}_complete.jsonl") for split in ("train", "dev", "test")},
    exemplars="openbookqa",
)
ARC = dataclasses.replace(
    MULTIPLE_CHOICE,
    files={
        split.lower(): (f"ARC-{{part}}-{split}.jsonl", f"ARC-{{part}}/ARC-{{part}}-{split}.jsonl")
        for split in ("Train", "Dev", "Test")
    },
    options={**MULTIPLE_CHOICE.options, "part": ("Easy", "Challenge")},
    exemplars="arc_{part}",
)


def arc(name: str, task: config.Task, seed: int) -> RowTask:
    """Loads ARC-Easy or ARC-Challenge. Raises InputError if neither the option nor the task's name selects one."""
    if not task.path.startswith(("datasets:", "tfds:")) and not {"part", "files"} & set(task.options):
        parts = [part for part in ARC.options["part"] if part.lower() in name.lower()]
        if len(parts) != 1:
            raise InputError(
                f"config.tasks.{name}: is it ARC-Easy or ARC-Challenge? Set options={{'part': 'Easy'}} or 'Challenge', "
                "or name the task arc_easy or arc_challenge"
            )
        task = dataclasses.replace(task, options={**task.options, "part": parts[0]})
    return load(ARC, name, task, seed)
