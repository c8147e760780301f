"""Rows of questions, responses and predictions of other programs that no job could use or read again are refused."""

import pytest
from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.jobs.predictions.prediction_files import read_predictions
from scotd_jax.rationales.importers.row_readers import read_ids
from scotd_jax.tasks.row_files import read_rows
from tests.faults.test_input import BROKEN, changed
from tests.rationales.importers.test_importers import importing


@pytest.mark.parametrize("name", ["deep list", "deep object", "5000 digits", "duplicate key", "NaN", "lone surrogate"])
@pytest.mark.parametrize("file", ["q.json", "q.jsonl"])
def test_broken_question_rows_are_refused(tmp_path, file, name):
    """Python's own parser accepts some of them, and raises RecursionError and ValueError for others."""
    (tmp_path / file).write_bytes(BROKEN[name])
    with pytest.raises(InputError, match=f"{file} line 1: not a JSON object"):
        list(read_rows(epath.Path(tmp_path / file)))


@pytest.mark.parametrize(
    ("importer", "row", "message"),
    [
        ("responses", changed(question_id="home/train/k1", logprob=float("nan")), "'logprob' should be a log-prob"),
        ("responses", changed(question_id="home/train/k1", num_tokens=2**40), "'num_tokens' should be at least 0"),
        ("responses", changed(question_id="home/train/k1", model="\ud800"), "half of a surrogate pair"),
        (
            "openai_batch",
            b'{"custom_id": "k1#\xc2\xb2", "response": {"choices": [{"text": "a"}]}}',
            "has the id 'k1#²'",
        ),
        ("openai_responses", b'{"metadata": {"question_id": ["k1"]}, "choices": []}', "'question_id' should be str"),
        ("openai_responses", b'{"choices": [{"text": "a"}], "id": ' + b"9" * 400 + b"}", "is too large"),
    ],
)
def test_imported_values_that_no_job_could_read_again_are_refused(tmp_path, importer, row, message):
    (tmp_path / "rows.jsonl").write_bytes(row)
    with pytest.raises(InputError, match=message):
        importing(tmp_path / "rows.jsonl", importer)


@pytest.mark.parametrize(
    "row", [b"5", b'"text"', b"[1]", b'{"doc_id": 1, "doc": {"question": "q"}, "filtered_resps": 1}']
)
def test_predictions_of_another_form_are_refused(tmp_path, row):
    (tmp_path / "p.jsonl").write_bytes(row)
    with pytest.raises(InputError, match="p.jsonl (line|row) 1: "):
        list(read_predictions(epath.Path(tmp_path / "p.jsonl")))


def test_whole_numbers_in_fields_of_floats_become_floats(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(changed(question_id="home/train/k1", logprob=-2))
    [row], _ = importing(tmp_path / "rows.jsonl", "responses", allow_chance=True)
    assert type(row.logprob) is float


def test_ids_that_are_not_text_are_refused(tmp_path):
    (tmp_path / "ids.txt").write_bytes(b"k1\n\xff\n")
    with pytest.raises(InputError, match="ids.txt: not UTF-8 text"):
        read_ids(epath.Path(tmp_path / "ids.txt"))
