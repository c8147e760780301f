"""A custom task in one file: pass its path as `kind`, and the folder of its data as `path`.

    tasks={"riddles": c.Task(kind="tests/configs/riddles.py", path="data/riddles")}

A row has a riddle, its solution and its difficulty: {"riddle": "What has keys but opens no door?",
"solution": "a piano", "hard": false}.
"""

from scotd_jax.records import Question
from scotd_jax.tasks.row_task import DataRow

FILES = {"train": "riddles_train.jsonl", "test": "riddles_test.csv"}  # default: SPLIT.jsonl, .json, .csv or .tsv


def question(row: DataRow) -> Question:
    text = row.lines("Solve this riddle:", row.text("riddle"))
    return row.question(text, row.text("solution"), tags=("hard",) if row.get("hard") else ())
