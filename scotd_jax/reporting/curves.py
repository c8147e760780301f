"""Curves of a report: arms that differ only in the number of rationales, of training questions, or of parameters."""

import dataclasses
import itertools
import re
from collections.abc import Sequence

from scotd_jax.reporting.tables import ArmRow


@dataclasses.dataclass(frozen=True)
class Axis:
    """A quantity that accuracy is drawn against.

    Attributes:
      field: field of `ArmRow` with the value of an arm; None and 0 are on no curve.
      title: its name in headings.
      about: what the points of a curve have in common.
      symbol: its symbol, which may end the names of arms.
    """

    field: str
    title: str
    about: str
    symbol: str = ""

    def value(self, row: ArmRow) -> int:
        """Returns the value of an arm; 0 if it is on no curve."""
        return getattr(row, self.field) or 0


AXES = (
    Axis(
        "samples",
        "rationales per question",
        "All points of a curve use the same samples: the first N of each question.",
        "N",
    ),
    Axis("labels", "training questions", "The points of a curve differ only in the questions that they train on."),
    Axis("parameters", "parameters of the student", "The points of a curve differ only in the size of the student."),
)


def curves(rows: Sequence[ArmRow], axis: Axis) -> dict[str, list[ArmRow]]:
    """Returns the students of every curve with at least two values of the axis, in the order of these values.

    Students on a curve have equal `ArmRow.curve`, and equal values of the other axes; the model is equal too, unless
    its size is the axis. Students with equal values differ in another setting, so they are on no curve.

    Args:
      rows: arms with the same reading.
      axis: the axis.

    Returns:
      Name of the curve, from what the names of its arms share -> its arms.
    """
    grouped: dict[tuple, list[ArmRow]] = {}
    for row in rows:
        if row.role == "student" and row.curve and axis.value(row):
            others = [getattr(row, other.field) for other in AXES if other != axis and other.field != "parameters"]
            model = "" if axis.field == "parameters" else row.model
            grouped.setdefault((row.curve, model, *others), []).append(row)
    lines = [sorted(line, key=axis.value) for line in grouped.values() if len(line) > 1]
    lines = [line for line in lines if len({axis.value(row) for row in line}) == len(line)]
    shared = [common_name([row.name for row in line], axis.symbol) for line in lines]
    names: dict[str, list[ArmRow]] = {}
    for line, name in zip(lines, shared, strict=True):
        model = "" if axis.field == "parameters" else line[0].model
        unique = name if name and shared.count(name) == 1 else ", ".join(filter(None, (name, model)))
        unique = unique or line[0].name
        numbered = itertools.chain([unique], (f"{unique} ({i})" for i in itertools.count(2)))
        names[next(candidate for candidate in numbered if candidate not in names)] = line
    return names


def common_name(names: Sequence[str], symbol: str = "") -> str:
    """Returns the words that some names begin with, else those that they end with, without a final symbol.

    For example, "SCoTD" of "SCoTD, N = 1" and "SCoTD, N = 30", if "N" is the symbol.
    """
    words = [[word.rstrip(",;:") or word for word in name.split()] for name in names]
    first, start = names[0].split(), len(_common_start(words))
    end = len(_common_start([found[::-1] for found in words]))
    text = " ".join(first[:start] or first[len(first) - end :])
    return re.sub(rf"[\s,:;=(]*(\b{symbol}\b[\s,:;=(]*)?$" if symbol else r"[\s,:;=(]*$", "", text)


def _common_start(lists: Sequence[list[str]]) -> list[str]:
    equal = itertools.takewhile(lambda words: len(set(words)) == 1, zip(*lists, strict=False))
    return [words[0] for words in equal]


def _common_start(lists: Sequence[list[str]]) -> list[str]:
    equal = itertools.takewhile(lambda words: len(set(words)) == 1, zip(*lists, strict=False))
    return [words[0] for words in equal]
