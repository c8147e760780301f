"""Releases: `datasets` loads both formats alike, and the card describes the responses."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.rationales.release import COLUMNS, KINDS, is_released, release
from scotd_jax.records import Question, Response

QUESTIONS = {
    "q/train/1": Question("q/train/1", "q", "train", "Which? (a) so\u2028 (b) no", ("so", "no"), "(a)"),
    "q/test/2": Question("q/test/2", "q", "test", "Why?", context="A passage."),
}
RIGHT = Response("q/train/1", 0, "Yes. (a)", "Yes.", "(a)", True, "stop", -1.5, 4, "m", "greedy")
RESPONSES = [
    RIGHT,
    dataclasses.replace(
        RIGHT, sample_index=1, answer="(b)", correct=False, text='Ne\u0301e "b"\n\n', finish_reason="length"
    ),
    Response("q/test/2", 0, "Because.", None, None, None, "stop", 0.0, 0, "n", ""),
]


def write_release(folder: Path, kind: str, responses=RESPONSES) -> epath.Path:
    target = epath.Path(folder)
    release(target, iter(responses), QUESTIONS, lambda q: f"Q: {q.text}\nA: ", kind=kind, name="sampled")
    return target


def load(folder: epath.Path, cache: Path) -> list[dict]:
    import datasets

    return datasets.load_dataset(str(folder), split="train", cache_dir=str(cache)).to_list()


@pytest.mark.parametrize("kind", KINDS)
def test_datasets_loads_a_release(tmp_path, kind):
    rows = load(write_release(tmp_path / "r", kind), tmp_path / "cache")
    assert [list(row) for row in rows] == [list(COLUMNS)] * 3
    assert rows[0] == {
        "question_id": "q/train/1",
        "sample_index": 0,
        "task": "q",
        "split": "train",
        "question": "Which? (a) so\u2028 (b) no",
        "context": None,
        "choices": ["so", "no"],
        "gold": "(a)",
        "prompt": "Q: Which? (a) so\u2028 (b) no\nA: ",
        "response": "Yes. (a)",
        "rationale": "Yes.",
        "answer": "(a)",
        "correct": True,
        "finish_reason": "stop",
        "logprob": -1.5,
        "num_tokens": 4,
        "model": "m",
        "sampling": "greedy",
    }
    assert [row["response"] for row in rows] == [r.text for r in RESPONSES]
    assert [row["correct"] for row in rows] == [True, False, None]
    assert (rows[2]["logprob"], rows[2]["num_tokens"], rows[2]["choices"], rows[2]["gold"]) == (None, None, [], None)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_nulls_keep_their_types(tmp_path, kind):
    """The card declares the types, so they are not inferred from the rows."""
    import datasets

    folder = write_release(tmp_path / "r", kind, RESPONSES[2:])
    features = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache")).features
    assert {n: "list" if t == "list" else t for n, t in COLUMNS.items()} == {
        name: getattr(feature, "dtype", None) if name != "choices" else "list" for name, feature in features.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_equal_responses_give_equal_bytes(tmp_path, kind):
    first, second = (write_release(tmp_path / name, kind) for name in "ab")
    files = sorted(p.relative_to(first) for p in Path(first).rglob("*") if p.is_file())
    assert [str(f) for f in files] == ["README.md", f"data/train-00000-of-00001.{kind}"]
    assert all((first / f).read_bytes() == (second / f).read_bytes() for f in files)


def test_both_formats_hold_the_same_rows(tmp_path):
    rows = [load(write_release(tmp_path / kind, kind), tmp_path / "cache") for kind in KINDS]
    assert rows[0] == rows[1]


def test_parquet_is_written_in_row_groups(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    monkeypatch.setattr("scotd_jax.rationales.release.ROW_GROUP", 2)
    folder = write_release(tmp_path / "r", "parquet")
    assert pq.ParquetFile(folder / "data/train-00000-of-00001.parquet").num_row_groups == 2


def test_card_of_a_release(tmp_path):
    text = (write_release(tmp_path / "r", "jsonl") / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["tags"] == ["scotd", "chain-of-thought", "distillation"]
    assert (head["license"], head["license_name"]) == ("other", "unknown")
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "data/*.jsonl"}]
    for fact in (
        "3 responses to 2 questions of q.test, q.train",
        "| m | greedy | 2 |",
        "| n | not known | 1 |",
        "1 (50.0%)",
    ):
        assert fact in text
    assert "The license is not known" in text


def test_empty_or_foreign_responses_cannot_be_released(tmp_path):
    with pytest.raises(InputError, match="'csv' is not one of jsonl, parquet"):
        write_release(tmp_path / "r", "csv")
    with pytest.raises(InputError, match="no responses to release"):
        write_release(tmp_path / "r", "jsonl", [])
    with pytest.raises(InputError, match="question 'q/x' of a response"):
        write_release(tmp_path / "r", "jsonl", [dataclasses.replace(RIGHT, question_id="q/x")])
    assert not is_released(epath.Path(tmp_path / "r"), "jsonl")


def test_another_format_replaces_the_release(tmp_path):
    folder = write_release(tmp_path / "r", "jsonl")
    assert is_released(folder, "jsonl")
    write_release(tmp_path / "r", "parquet")
    assert is_released(folder, "parquet")
    assert not is_released(folder, "jsonl")
