"""SST-2 (sentences) and IMDb (reviews, with the contrast set of arXiv 2004.02709): positive or negative.

SST-2 files are tab-separated without quoting: those of GLUE have a header, others are "label<TAB>sentence". The files
of the contrast set are tab-separated *with* CSV quoting. Row k of the split `contrast` is row k of `test`, edited so
that its label flips; the two form a group. The full IMDb is a folder per split with one file per review.
Reviews are left unchanged, including `<br />`.
"""

from collections.abc import Iterator

from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.records import Question
from scotd_jax.tasks.row_files import LocatedRow, read_lines, read_rows, read_text
from scotd_jax.tasks.row_task import DataRow, Dataset

CHOICES = ("negative", "positive")
_LABELS = {"0": "negative", "1": "positive", "neg": "negative", "pos": "positive"} | {
    choice: choice for choice in CHOICES
}


def sst2_question(row: DataRow) -> Question:
    """Returns a question with the row number in its id, also for GLUE, whose `idx` is the same number."""
    text = row.lines("What is the sentiment of the following sentence?", row.text("sentence"))
    return row.question(text, row.label(_LABELS, "label"), CHOICES)


def imdb_question(row: DataRow) -> Question:
    """Returns a question with the row number in its id."""
    text = row.lines("What is the sentiment of the following review?", row.text("text", "Text"))
    return row.question(text, row.label(_LABELS, "label", "Sentiment"), CHOICES)


def read_sst2(path: epath.Path) -> Iterator[LocatedRow]:
    """Yields the rows of an unquoted table, with or without a header."""
    lines = read_lines(path)
    header = lines[0][1].strip().split("\t") if lines else []
    if "sentence" in header:
        del lines[0]
    else:
        header = ["label", "sentence"]
    for where, line in lines:
        values = line.rstrip("\r").split("\t", len(header) - 1)
        if len(values) != len(header):
            raise InputError(f"{where}: expected {'<TAB>'.join(header)}, found {line[:60]!r}")
        yield where, dict(zip(header, values, strict=True))


def read_imdb(path: epath.Path) -> Iterator[LocatedRow]:
    """Yields the rows of a quoted table, or of a folder with subfolders `neg` and `pos`."""
    if path.is_dir():
        for label in ("neg", "pos"):
            for file in sorted((path / label).glob("*.txt"), key=lambda file: int(file.stem.partition("_")[0])):
                yield str(file), {"label": label, "text": read_text(file)}
        return
    yield from read_rows(path)


SST2 = Dataset(
    sst2_question,
    files={split: (f"{split}.tsv",) for split in ("train", "dev", "test")},
    read=read_sst2,
    expected="a label, 0 or 1, and a sentence",
    exemplars="sst2",
)
IMDB = Dataset(
    imdb_question,
    files={
        "train": ("train", "train_original.tsv"),
        "dev": ("dev_original.tsv",),
        "dev_contrast": ("dev_contrast.tsv",),
        "test": ("test_original.tsv", "test"),
        "contrast": ("test_contrast.tsv",),
    },
    read=read_imdb,
    expected="Sentiment, Negative or Positive, and Text",
    exemplars="imdb",
    edits={"contrast": "test", "dev_contrast": "dev"},
)
