"""The results table: the same rows in CSV, JSON and Parquet."""

import csv
import dataclasses
import json

import pyarrow.parquet as pq
import pytest
from etils import epath

from scotd_jax.config.evaluation_schema import RESULT_COLUMNS
from scotd_jax.reporting.data import ReportData
from scotd_jax.reporting.results_table import result_rows, write_results
from tests.helpers.invented_report import invented
from tests.helpers.report_arms import arm


@pytest.fixture(scope="module")
def data() -> ReportData:
    data = invented(seeds=2, per_set=24)
    names = [run.student for run in data.runs if run.role == "student"]
    columns = {
        name: {"size": 'small, "old"\nand new', "share": 10 * i, "rate": 0.1 * i} for i, name in enumerate(names)
    }
    columns[names[0]] = {"size": "", "rate": 1, "few": True}
    columns[names[1]] |= {"questions": ["w.train", "w.gold"], "mixed": 1}
    columns[names[2]] |= {"mixed": "1"}
    return dataclasses.replace(data, columns=columns)


def test_all_three_files_have_the_same_values(data, tmp_path):
    rows = result_rows(data)
    write_results(epath.Path(tmp_path), data)
    assert json.loads((tmp_path / "results.json").read_text()) == rows
    assert pq.read_table(tmp_path / "results.parquet").to_pylist() == rows
    with open(tmp_path / "results.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert [list(row) for row in read] == [list(row) for row in rows]
    texts = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    assert read == texts
    numbers = [float(row["accuracy"]) for row in read]
    assert numbers == [row["accuracy"] for row in rows], "no digit is lost"


def test_columns_have_one_type_each(data, tmp_path):
    write_results(epath.Path(tmp_path), data)
    schema = pq.read_schema(tmp_path / "results.parquet")
    types = {name: str(schema.field(name).type) for name in schema.names}
    assert [types[name] for name in ("seed", "k", "n")] == ["int64"] * 3
    assert [types[name] for name in ("correct", "accuracy", "low", "high", "rate")] == ["double"] * 5
    assert [types[name] for name in ("run", "size", "questions", "mixed")] == ["string"] * 4
    assert (types["share"], types["few"]) == ("int64", "bool")
    mixed = [value for value in pq.read_table(tmp_path / "results.parquet")["mixed"].to_pylist() if value is not None]
    assert set(mixed) == {"1", '"1"'}
    assert schema.names == [
        *RESULT_COLUMNS[:8],
        *("size", "rate", "few", "share", "questions", "mixed"),
        *RESULT_COLUMNS[8:],
    ]


def test_every_set_vote_and_consistency_has_a_row(data):
    rows = result_rows(data)
    for run in data.runs:
        own = {(row["set"], row["k"]): row for row in rows if row["run"] == run.student}
        assert set(own) == {
            *((label, 1) for label in run.results),
            *((label, vote["k"]) for label, vote in run.votes.items()),
            ("contrast consistency", 1),
        }
        for row in own.values():
            assert row["correct"] == pytest.approx(row["accuracy"] * row["n"])
            assert row["low"] <= row["accuracy"] <= row["high"]
        assert own["world.test", 1]["correct"] == sum(run.outcomes["world.test"].values())


def test_report_without_runs_has_a_table_without_rows(tmp_path):
    write_results(epath.Path(tmp_path), ReportData("empty", []))
    assert json.loads((tmp_path / "results.json").read_text()) == []
    assert (tmp_path / "results.csv").read_text() == ",".join(RESULT_COLUMNS) + "\n"
    assert pq.read_table(tmp_path / "results.parquet").column_names == list(RESULT_COLUMNS)


def test_readings_are_separate_rows(tmp_path):
    runs = [arm("a", 0.5), dataclasses.replace(arm("a", 0.8), read="choices")]
    assert [(row["read"], row["accuracy"]) for row in result_rows(ReportData("t", runs))] == [
        ("text", 0.5),
        ("choices", 0.8),
    ]
