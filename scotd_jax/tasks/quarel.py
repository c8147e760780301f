"""QuaRel: two choices inside the question, "... (A) marble floor (B) wet floor"; the answer is "(a)" or "(b)".

Official rows have an `answer_index`. Files of other projects (one JSON object per file, without ids) have an `answer`,
or a `gold_label` beside a model's response, in upper or lower case. A file of responses repeats a question for each of
its responses; the question is used once. The text of the question is left unchanged, with capital letters, as in SCoTD.
"""

import re
from collections.abc import Iterator

from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.records import Question
from scotd_jax.tasks.row_files import LocatedRow, read_rows
from scotd_jax.tasks.row_task import DataRow, Dataset

_CHOICES = re.compile(r"\(A\)\s*(.+?)\s*\(B\)\s*(.+)")
_TAIL = re.compile(r"(?:[.,;?]| or| or the)+$")  # punctuation and conjunctions at the end that are not part of a choice
# Maps "(a)" and "a" to "(a)", "(b)" and "b" to "(b)", and an `answer_index` to its letter.
_ANSWERS = {answer: f"({answer[-2:].strip('()')})" for answer in ("(a)", "(b)", "a", "b")} | {"0": "(a)", "1": "(b)"}


def quarel_question(row: DataRow) -> Question:
    """Returns a question with the unchanged text; its choices are the phrases after (A) and (B)."""
    text = row.text("question")
    found = _CHOICES.search(text)
    if found is None:
        raise InputError(f"{row.where}: expected a question with (A) and (B), found {text!r}")
    answer = row.label(_ANSWERS, "answer", "answer_index", "gold_label")
    return row.question(text, answer, [_TAIL.sub("", choice) for choice in found.groups()], id=row.get("id"))


def read_quarel(path: epath.Path) -> Iterator[LocatedRow]:
    """Yields rows, without repetitions of the previous row's question."""
    last = None
    for where, row in read_rows(path):
        if row.get("question") is None or row.get("question") != last:
            yield where, row
        last = row.get("question")


QUAREL = Dataset(
    quarel_question,
    read=read_quarel,
    files={split: (f"quarel-v1-{split}.jsonl", f"{split}.jsonl") for split in ("train", "dev", "test")},
    expected='{"question": "... (A) .. (B) ..", "answer": "(A)" or "answer_index": 0}',
    exemplars="quarel",
)
