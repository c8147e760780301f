"""Releases responses as a dataset that loads without this package: JSON lines or Parquet, and a dataset card.

    FOLDER/data/train-00000-of-00001.jsonl   (or .parquet)
    FOLDER/README.md                         the card; written last, so a folder that has one is complete

    datasets.load_dataset("FOLDER", split="train")

One row per response, with its question in full. Equal responses give equal bytes.
"""

import collections
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from scotd_jax.atomic import atomic_write
from scotd_jax.errors import InputError
from scotd_jax.records import Question, Response

KINDS = ("jsonl", "parquet")
ROW_GROUP = 4096  # rows in memory at a time

# Columns with their types in `datasets`. Unknown values are null.
COLUMNS = {
    "question_id": "string",
    "sample_index": "int64",
    "task": "string",
    "split": "string",
    "question": "string",
    "context": "string",
    "choices": "list",
    "gold": "string",
    "prompt": "string",
    "response": "string",
    "rationale": "string",
    "answer": "string",
    "correct": "bool",
    "finish_reason": "string",
    "logprob": "float64",
    "num_tokens": "int64",
    "model": "string",
    "sampling": "string",
}


def is_released(folder: epath.Path, kind: str) -> bool:
    """Whether `folder` holds a complete release of this kind."""
    return (folder / "README.md").exists() and _data_path(folder, kind).exists()


def release(
    folder: epath.Path,
    responses: Iterable[Response],
    questions: Mapping[str, Question],
    prompt: Callable[[Question], str],
    *,
    kind: str,
    name: str,
) -> None:
    """Writes responses to `folder`, in their order, and replaces an earlier release.

    Args:
      folder: folder of the release.
      responses: responses to release.
      questions: their questions by id.
      prompt: returns the prompt of a question as text.
      kind: one of `KINDS`.
      name: title of the card.

    Raises:
      InputError: if `kind` is unknown, there are no responses, or a response belongs to none of the questions.
    """
    if kind not in KINDS:
        raise InputError(f"release: {kind!r} is not one of {', '.join(KINDS)}")
    if folder.exists():
        (folder / "README.md").unlink(missing_ok=True)
        folder.rmtree()
    statistics = _ReleaseStatistics()
    rows = (statistics.add(_row(response, questions, prompt)) for response in responses)
    with atomic_write(_data_path(folder, kind)) as file:
        if kind == "jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
        else:
            _write_parquet(file, rows)
        if not statistics.rows:
            raise InputError(f"{folder}: there are no responses to release")
    with atomic_write(folder / "README.md") as file:
        file.write(_card(name, kind, statistics).encode())


def _data_path(folder: epath.Path, kind: str) -> epath.Path:
    return folder / "data" / f"train-00000-of-00001.{kind}"


def _row(response: Response, questions: Mapping[str, Question], prompt: Callable[[Question], str]) -> dict[str, Any]:
    if response.question_id not in questions:
        raise InputError(f"release: question {response.question_id!r} of a response is not one of the set's questions")
    question = questions[response.question_id]
    is_counted = response.num_tokens > 0  # imported responses may lack token counts
    return {
        "question_id": question.id,
        "sample_index": response.sample_index,
        "task": question.task,
        "split": question.split,
        "question": question.text,
        "context": question.context,
        "choices": list(question.choices),
        "gold": question.answer,
        "prompt": prompt(question),
        "response": response.text,
        "rationale": response.rationale,
        "answer": response.answer,
        "correct": response.correct,
        "finish_reason": response.finish_reason,
        "logprob": response.logprob if is_counted else None,
        "num_tokens": response.num_tokens if is_counted else None,
        "model": response.model,
        "sampling": response.sampling,
    }


def _write_parquet(file: Any, rows: Iterator[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
    schema = pa.schema([(column, kinds.get(kind, pa.list_(pa.string()))) for column, kind in COLUMNS.items()])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while block := list(itertools.islice(rows, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(block, schema))


class _ReleaseStatistics:
    """Statistics for the card, counted while the rows are written."""

    def __init__(self) -> None:
        self.rows = self.right = self.compared = self.answered = self.truncated = 0
        self.questions: set[str] = set()
        self.sets: collections.Counter[str] = collections.Counter()
        self.models: collections.Counter[tuple[str, str]] = collections.Counter()

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        """Counts a row and returns it unchanged."""
        self.rows += 1
        self.right += row["correct"] is True
        self.compared += row["correct"] is not None
        self.answered += row["answer"] is not None
        self.truncated += row["finish_reason"] == "length"
        self.questions.add(row["question_id"])
        self.sets[f"{row['task']}.{row['split']}"] += 1
        self.models[row["model"], row["sampling"]] += 1
        return row


def _card(name: str, kind: str, statistics: _ReleaseStatistics) -> str:
    features = "".join(
        f"  - name: {column}\n    " + ("list: string\n" if type_ == "list" else f"dtype: {type_}\n")
        for column, type_ in COLUMNS.items()
    )
    models = "".join(
        f"| {model} | {sampling or 'not known'} | {rows:,} |\n"
        for (model, sampling), rows in sorted(statistics.models.items())
    )
    share = f"{statistics.right / statistics.compared:.1%}" if statistics.compared else "not known"
    return f"""---
license: other
license_name: unknown
language: en
tags:
- scotd
- chain-of-thought
- distillation
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.{kind}
dataset_info:
  features:
{features}---

# {name}

Chains of thought for distillation: {statistics.rows:,} responses to {len(statistics.questions):,} questions of \
{", ".join(sorted(statistics.sets))}, one per row, with their questions. Written by `scotd_jax`.

The license is not known: it follows from those of the questions and of the model that generated the responses. Look \
them up and write the license into the first lines of this file before you pass the data on.

| model | sampling | responses |
|---|---|---|
{models}
| | |
|---|---|
| responses with an answer | {statistics.answered:,} |
| compared with a gold answer | {statistics.compared:,} |
| of these correct | {statistics.right:,} ({share}) |
| cut off at the length limit | {statistics.truncated:,} |

Responses are not filtered: wrong ones are included. `correct` is null where there is no gold answer, `answer` and \
`rationale` where they could not be parsed, `logprob` (natural, of the whole response) and `num_tokens` where they are \
unknown. The dataset's only split is "train"; the column `split` is that of the question in its task.
"""
