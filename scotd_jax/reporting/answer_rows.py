"""Rows of the report's table of answers: which options every arm names, beside those that are right."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scotd_jax.evaluation.answer_distribution import COLLAPSED
from scotd_jax.reporting.data import EvalSet
from scotd_jax.reporting.tables import ArmRow, mean

_COLOURS = 8  # of options; the others share one
_LISTED = 4  # options in the text of a cell


def majority(rows: Iterable[ArmRow], evalset: EvalSet) -> dict[str, Any] | None:
    """Returns the accuracy of the majority answer on a set, mean over runs, and its option if all runs have the same.

    None if a run has no distribution of answers, as results of earlier versions.
    """
    found = _distributions(rows, evalset)
    if not found or None in found:
        return None
    majorities = [answers["majority"] for answers in found if answers is not None]
    options = {entry["option"] for entry in majorities}
    return {"accuracy": mean(m["accuracy"] for m in majorities), "option": options.pop() if len(options) == 1 else ""}


def answer_rows(rows: Sequence[ArmRow], sets: Sequence[EvalSet]) -> dict[str, Any]:
    """Returns the shares of the options that are right, and of those that every arm names, on every set.

    Returns:
      A dict of `right` (set label -> cell) and `arms`, pairs of a row and its cells, all of them with distributions. A
      cell has `parts` (name, share, CSS class) for a bar, the `listed` ones for a text, and its `collapsed` runs.
    """
    right: dict[str, dict[str, Any]] = {}
    arms = []
    for row in rows:
        cells = {}
        for evalset in sets:
            found = [answers for answers in _distributions([row], evalset) if answers]
            if found:
                right.setdefault(evalset.label, _cell(found, "right"))
                cells[evalset.label] = _cell(found, "named", row.cells[evalset.label].collapsed)
        if cells:
            arms.append((row, cells))
    return {"right": right, "arms": arms, "threshold": f"{100 * COLLAPSED:g}"}


def _distributions(rows: Iterable[ArmRow], evalset: EvalSet) -> list[Mapping[str, Any] | None]:
    results = [run.results[evalset.label] for row in rows for run in row.runs if evalset.label in run.results]
    return [score.get("answers") for score in results]


def _cell(found: Sequence[Mapping[str, Any]], key: str, collapsed: int = 0) -> dict[str, Any]:
    """Mean shares over runs; what is left of 100 % for open questions are other answers."""
    names = dict.fromkeys(name for answers in found for name in answers["options"])
    shares = {name: mean(answers["options"].get(name, {key: 0.0})[key] for answers in found) for name in names}
    parts = [(name, share, f"option-{min(i, _COLOURS - 1)}") for i, (name, share) in enumerate(shares.items())]
    if key == "named":
        parts += [
            (name.replace("_", " "), mean(answers[name] for answers in found), f"option-{name}")
            for name in ("not_offered", "unreadable")
        ]
    other = 1 - sum(share for _, share, _ in parts)
    parts = [part for part in [*parts, ("other answers", other, "option-other")] if part[1] > 1e-9]
    largest = sorted(parts, key=lambda part: -part[1])[:_LISTED]
    return {"parts": parts, "listed": [part for part in parts if part in largest], "collapsed": collapsed}
