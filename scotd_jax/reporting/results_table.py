"""The results of a report as a table for other programs: results.csv, results.json and results.parquet.

All three have the same rows and values, one row per run, question set and reading of the answers. Unknown values and
empty texts are null (an empty field of the CSV file).
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from scotd_jax.atomic import atomic_write, write_text
from scotd_jax.config.evaluation_schema import RESULT_COLUMNS
from scotd_jax.reporting.data import CONSISTENCY, ReportData, RunResult

Row = dict[str, str | int | float | bool | None]


def write_results(folder: epath.Path, data: ReportData) -> None:
    """Writes the three files to `folder`, each atomically. Raises InputError if the disk is full."""
    rows = result_rows(data)
    write_text(folder / "results.csv", _to_csv(rows))
    write_text(folder / "results.json", json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    _write_parquet(folder / "results.parquet", rows)


def result_rows(data: ReportData) -> list[Row]:
    """Returns the rows: the single responses of every run to every set, its votes, and its contrast consistency.

    The columns are `RESULT_COLUMNS` in their order, with those of `ReportData.columns` before "set":

        run, arm, model, role, seed   the evaluation, and the fields of `RunResult`
        samples, labels               rationales per question and questions in the sets of the student's corpus
        parameters                    of the model
        set, read                     label of the set, or "contrast consistency"; "text" or "choices"
        k                             number of responses per question that vote; 1 for single responses
        n, correct, accuracy          number of questions (or groups), of correct ones (a mean if a question has
                                      several responses), and their ratio
        low, high                     limits of the confidence interval of this run
    """
    rows = [row for run in data.runs for row in _rows_of(run, data)]
    further = list(dict.fromkeys(name for values in data.columns.values() for name in values))
    place = RESULT_COLUMNS.index("set")
    ordered = [*RESULT_COLUMNS[:place], *further, *RESULT_COLUMNS[place:]]
    columns = {name: _of_one_type([row.get(name) for row in rows]) for name in ordered}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _rows_of(run: RunResult, data: ReportData) -> Iterator[dict[str, Any]]:
    about: dict[str, Any] = {
        "run": run.student,
        "arm": run.name,
        "model": run.model,
        "role": run.role,
        "seed": run.seed,
    }
    about |= {"samples": run.samples, "labels": run.labels, "parameters": run.parameters, "read": run.read}
    about |= data.columns.get(run.student, {})
    for label, score in run.results.items():
        yield about | {"set": label, "k": 1} | _scores(run.outcomes[label], score)
    for label, score in run.votes.items():
        yield about | {"set": label, "k": score["k"]} | _scores(run.vote_outcomes[label], score)
    if run.consistency is not None:
        yield about | {"set": CONSISTENCY.label, "k": 1} | _scores(data.consistent_groups(run), run.consistency)


def _scores(outcomes: Mapping[str, float], score: Mapping[str, Any]) -> dict[str, Any]:
    low, high = score["interval"]
    correct = float(sum(outcomes.values()))
    return {"n": score["n"], "correct": correct, "accuracy": score["accuracy"], "low": low, "high": high}


def _of_one_type(values: Sequence[Any]) -> list[Any]:
    """The values of a column in one type, which a column of Parquet needs: mixed ones, and lists, as JSON text."""
    types = {type(value) for value in values if value not in (None, "")}
    if types == {int, float}:
        return [None if value in (None, "") else float(value) for value in values]
    if len(types) > 1 or types - {str, int, float, bool}:
        return [None if value in (None, "") else json.dumps(value) for value in values]
    return [None if value == "" else value for value in values]


def _to_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else list(RESULT_COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write_parquet(path: epath.Path, rows: Sequence[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(rows[0]) if rows else list(RESULT_COLUMNS)
    with atomic_write(path) as file:
        pq.write_table(pa.table({name: [row[name] for row in rows] for name in names}), file)
