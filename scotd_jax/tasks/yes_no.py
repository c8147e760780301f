"""StrategyQA and BoolQ: yes/no questions; those of BoolQ come with a passage."""

from collections.abc import Sequence

from scotd_jax.records import Question
from scotd_jax.tasks.row_task import DataRow, Dataset, tidy

CHOICES = ("yes", "no")
_LABELS = {"true": "yes", "1": "yes", "yes": "yes", "false": "no", "0": "no", "no": "no"}


def strategyqa_question(row: DataRow) -> Question:
    """Returns a question with the choices yes and no."""
    return row.question(row.text("question"), row.label(_LABELS, "answer"), CHOICES, id=row.get("qid"))


def strategyqa_facts(row: DataRow) -> Sequence[str]:
    """Returns the annotators' facts as one rationale."""
    facts = row.get("facts") or ()
    return [facts if isinstance(facts, str) else " ".join(facts)]


def boolq_question(row: DataRow) -> Question:
    """Returns a question in its lower case, with a question mark added and its passage as context."""
    text = f"{row.text('question').rstrip('?').rstrip()}?"
    return row.question(text, row.label(_LABELS, "answer", "label"), CHOICES, context=tidy(row["passage"]))


STRATEGYQA = Dataset(
    strategyqa_question,
    files={
        "train": ("strategyqa_train.json", "train.json", "train.jsonl"),
        "dev": ("strategyqa_dev.json", "dev.json", "dev.jsonl"),
        "test": ("strategyqa_test.json", "test.json", "test.jsonl"),
    },
    rationales=strategyqa_facts,
    expected='{"qid", "question", "answer": true or false}',
    exemplars="strategyqa",
)
BOOLQ = Dataset(
    boolq_question,
    files={"train": ("train.jsonl",), "dev": ("dev.jsonl", "val.jsonl"), "test": ("test.jsonl",)},
    expected='{"question", "passage", "answer": true or false}',
    exemplars="boolq",
)
