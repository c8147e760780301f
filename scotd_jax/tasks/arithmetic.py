"""GSM8K and SVAMP: word problems, answered by a number (tasks/numeric_answers.py)."""

import re
from collections.abc import Sequence
from typing import Any

from scotd_jax.errors import InputError
from scotd_jax.records import Question
from scotd_jax.tasks.numeric_answers import parse_number
from scotd_jax.tasks.row_task import DataRow, Dataset

_CALCULATOR = re.compile(r"<<.*?>>")


def gsm8k_question(row: DataRow) -> Question:
    """The answer is what follows "####" in the solution; tfds delivers it apart, as `short_answer`."""
    said = row.get("short_answer") or row.get("answer")
    return row.question(row.text("question"), _number(row, str(said).rpartition("####")[2] if said else None))


def gsm8k_solution(row: DataRow) -> Sequence[str]:
    """The solution, its lines joined, without the annotations for a calculator."""
    solution, found, _ = str(row.get("answer")).rpartition("####")
    return [_CALCULATOR.sub("", solution)] if found else []


def svamp_question(row: DataRow) -> Question:
    return row.question(f"{row.text('Body')} {row.text('Question')}", _number(row, row.get("Answer")), id=row.get("ID"))


def _number(row: DataRow, said: Any) -> str | None:
    if said is None:
        return None
    number = parse_number(str(said))
    if number is None:
        raise InputError(f"{row.where}: expected a number as answer, found {said!r}")
    return number


GSM8K = Dataset(
    gsm8k_question,
    files={"train": ("train.jsonl",), "dev": ("dev.jsonl",), "test": ("test.jsonl",)},
    rationales=gsm8k_solution,
    expected='{"question", "answer": "... #### 72"}',
    exemplars="gsm8k",
)
SVAMP = Dataset(
    svamp_question,
    files={"train": ("train.json",), "test": ("test.json", "SVAMP.json")},
    expected='{"ID", "Body", "Question", "Answer"}',
    exemplars="svamp",
)
