"""A task of your own in one file: give its path as `kind`, and as `path` the folder of the data.

    tasks={"riddles": c.Task(kind="tests/configs/riddles.py", path="data/riddles")}

A row of the files is a riddle, what solves it and how hard it is: {"riddle": "What has keys but opens no door?",
"solution": "a piano", "hard": false}.
"""

from scotd_jax.records import Question
from scotd_jax.tasks.row_task import DataRow

FILES = {"train": "riddles_train.jsonl", "test": "riddles_test.csv"}  # without it: every SPLIT.jsonl, .json, .csv, .tsv


def question(row: DataRow) -> Question:
    text = row.lines("Solve this riddle:", row.text("riddle"))
    return row.question(text, row.text("solution"), tags=("hard",) if row.get("hard") else ())
