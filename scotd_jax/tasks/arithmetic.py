"""GSM8K and SVAMP: word problems with numeric answers (tasks/numeric_answers.py)."""

import re
from collections.abc import Sequence
from typing import Any

from scotd_jax.errors import InputError
from scotd_jax.records import Question
from scotd_jax.tasks.numeric_answers import parse_number
from scotd_jax.tasks.row_task import DataRow, Dataset

_CALCULATOR = re.compile(r"<<.*?>>")  # such as <<48/2=24>>


def gsm8k_question(row: DataRow) -> Question:
    """Returns a question; its answer follows "####" in the solution or, in tfds, in `short_answer`."""
    solution = row.get("short_answer") or row.get("answer")
    return row.question(row.text("question"), _number(row, str(solution).rpartition("####")[2] if solution else None))


def gsm8k_solution(row: DataRow) -> Sequence[str]:
    """Returns a list of the worked solution without calculator annotations; an empty list if the row has none."""
    solution, found, _ = str(row.get("answer")).rpartition("####")
    return [_CALCULATOR.sub("", solution)] if found else []


def svamp_question(row: DataRow) -> Question:
    """Returns a question whose text is the body and the question of the row."""
    return row.question(f"{row.text('Body')} {row.text('Question')}", _number(row, row.get("Answer")), id=row.get("ID"))


def _number(row: DataRow, value: Any) -> str | None:
    if value is None:
        return None
    number = parse_number(str(value))
    if number is None:
        raise InputError(f"{row.where}: expected a number as answer, found {value!r}")
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
