"""ANLI and e-SNLI, natural language inference: does a premise entail a hypothesis? Prompted as in SCoTD, with options.

ANLI has three rounds; the option `round` (3 by default, as in SCoTD) selects the one that provides all splits.
e-SNLI has up to three human explanations per row, which become its gold responses.
"""

from collections.abc import Sequence

from scotd_jax.records import Question
from scotd_jax.tasks.row_task import DataRow, Dataset

CHOICES = ("yes", "no", "it is not possible to tell")
_LABELS = {
    **dict.fromkeys(("0", "e", "entailment", "yes"), "yes"),
    **dict.fromkeys(("1", "n", "neutral", "it is not possible to tell"), "it is not possible to tell"),
    **dict.fromkeys(("2", "c", "contradiction", "no"), "no"),
}


def nli_question(row: DataRow) -> Question:
    """Returns a question whose text lists the three options below premise and hypothesis."""
    premise = row.text("premise", "context", "Sentence1", "sentence1")
    hypothesis = row.text("hypothesis", "Sentence2", "sentence2")
    text = row.lines(
        "Premise:",
        f'"{premise}"',
        f'Based on this premise, can we conclude the hypothesis "{hypothesis}" is true?',
        "OPTIONS:",
        *(f"- {choice}" for choice in CHOICES),
    )
    answer = row.label(_LABELS, "label", "gold_label")
    return row.question(text, answer, CHOICES, id=row.get("uid", row.get("pairID")))


def explanations(row: DataRow) -> Sequence[str]:
    """Returns e-SNLI's human explanations."""
    found = (row.get(f"{name}_{i}") for i in (1, 2, 3) for name in ("Explanation", "explanation"))
    return [text for text in found if text]


ANLI = Dataset(
    nli_question,
    files={split: (f"R{{round}}/{split}.jsonl", f"{split}.jsonl") for split in ("train", "dev", "test")},
    options={"round": (3, 1, 2)},
    splits={f"{split}_r{{round}}": split for split in ("train", "dev", "test")},
    expected='{"uid", "context" or "premise", "hypothesis", "label"}',
    exemplars="anli",
)
ESNLI = Dataset(
    nli_question,
    files={"train": ("esnli_train_*.csv", "esnli_train.csv"), "dev": ("esnli_dev.csv",), "test": ("esnli_test.csv",)},
    rationales=explanations,
    expected='{"Sentence1" or "premise", "Sentence2" or "hypothesis", "gold_label" or "label"}',
    exemplars="esnli",
)
