"""Rows of the report's tables of faithfulness: answers after changed rationales, and simulatability."""

import itertools
from collections.abc import Sequence
from typing import Any

from scotd_jax.evaluation.intervals import Estimate
from scotd_jax.reporting import tables
from scotd_jax.reporting.data import EvalSet, ReportData
from scotd_jax.reporting.tables import ArmRow, mean

_MEANS = ("predicted_from_both", "predicted_from_question", "predicted_from_rationale")


def faithfulness_content(rows: Sequence[ArmRow], sets: Sequence[EvalSet], data: ReportData) -> dict[str, Any]:
    """Returns the names of the changes, the rows of arms and sets with changed rationales, and those of simulatability.

    A row of the first kind has the accuracy of the own answers, and for every change the cells of the share of other
    answers and of the accuracy. A row of the second kind has means over runs, with the interval of a single run.
    """
    changed, simulated = [], []
    for row, evalset in itertools.product(rows, sets):
        label = evalset.label
        runs = [run.changes[label] for run in row.runs if run.changes.get(label)]
        if runs:
            names = [name for name in runs[0] if all(name in run for run in runs)]
            cells = {
                name: [
                    tables.outcome_cell([getattr(run[name], kind) for run in runs], data.clusters, data.confidence)
                    for kind in ("changed", "right")
                ]
                for name in names
            }
            changed.append({"row": row, "set": evalset.name, "own": row.cells[label], "changes": cells})
        found = [s for run in row.runs if (s := run.results.get(label, {}).get("simulatability"))]
        if found:
            simulated.append({"row": row, "set": evalset.name} | _summarize(found))
    names = list(dict.fromkeys(name for line in changed for name in line["changes"]))
    return {"names": names, "changed": changed, "simulated": simulated}


def _summarize(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    known = [entry["las"] for entry in found if entry["las"] is not None]
    single = found[0] if len(found) == 1 and known else None
    return {
        **{name: mean(entry[name] for entry in found) for name in _MEANS},
        "las": mean(known) if known else None,
        "interval": Estimate(single["las"], *single["interval"]) if single else None,
        "runs": len(known),
    }
