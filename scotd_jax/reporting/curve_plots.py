"""Plots with several lines: accuracy against a quantity, and reliability diagrams. Lines are named in the margin."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from scipy import optimize

from scotd_jax.reporting.curves import Axis
from scotd_jax.reporting.data import EvalSet
from scotd_jax.reporting.figures import LINES, MARKERS, MUTED, STYLE, panel, shorten, to_svg
from scotd_jax.reporting.tables import ArmRow

_LOG_FROM = 4  # ratio of the largest to the smallest value from which an axis is logarithmic
_TICKS = 6  # maximum number of labelled values, as many as fit
_GAP = 8.0  # between names in the margin, in points of accuracy


def curve_panel(
    axis: Axis,
    curves: Mapping[str, Sequence[ArmRow]],
    evalset: EvalSet,
    references: Mapping[str, Mapping[str, float]],
) -> str:
    """Returns a plot of accuracy against the values of an axis, one line with its band of intervals per curve.

    Args:
      axis: the axis.
      curves: name -> arms in the order of their values.
      evalset: the question set.
      references: name of a curve -> dashed lines to draw with it: name -> accuracy (fraction) of another student.
    """
    with mpl.rc_context(STYLE):
        figure, axes = panel(2.4 + 0.1 * max(0, len(curves) - 4), top=0.3, left=0.34, right=1.2)
        names: list[tuple[float, str, str]] = []
        chances = []
        for number, (name, rows) in enumerate(curves.items()):
            colour, marker = _look(number)
            points = [row for row in rows if evalset.label in row.cells]
            cells = [row.cells[evalset.label] for row in points]
            x, y = [axis.value(row) for row in points], [100 * cell.estimate.value for cell in cells]
            low, high = [100 * cell.estimate.low for cell in cells], [100 * cell.estimate.high for cell in cells]
            chances += [100 * cell.chance for cell in cells if cell.chance is not None]
            axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
            axes.plot(x, y, marker=marker, color=colour, markersize=4.5, linewidth=1.6)
            if len(curves) > 1:
                names.append((y[-1], name, colour))
            for other, accuracy in references.get(name, {}).items():
                shade = colour if len(curves) > 1 else MUTED
                axes.axhline(100 * accuracy, color=shade, linewidth=1, linestyle=(0, (5, 3)))
                names.append((100 * accuracy, other, shade))
        if chances:
            names.append((sum(chances) / len(chances), "chance", MUTED))
            axes.axhline(names[-1][0], color=MUTED, linewidth=1, linestyle=":")
        _name_lines(axes, names)
        _set_values(axes, sorted({axis.value(row) for rows in curves.values() for row in rows}))
        axes.set(ylim=(0, 100), xlabel=axis.title + (f" ({axis.symbol})" if axis.symbol else ""))
        axes.set_title("accuracy, %", loc="left", fontsize=8, color=MUTED)
        return to_svg(figure, f"Accuracy on {evalset.name} against the number of {axis.title}")


def reliability_panel(lines: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> str:
    """Returns a reliability diagram: accuracy against confidence, one line per arm; larger dots have more answers.

    Args:
      lines: name of an arm -> its bins (`evaluation.calibration`).
      title: description of the plot.
    """
    with mpl.rc_context(STYLE):
        figure, axes = panel(2.4 + 0.1 * max(0, len(lines) - 4), top=0.3, left=0.34, right=1.2)
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=":")
        names = []
        for number, (name, bins) in enumerate(lines.items()):
            colour, marker = _look(number)
            x, y = [100 * entry["confidence"] for entry in bins], [100 * entry["accuracy"] for entry in bins]
            shares = [entry["n"] / sum(other["n"] for other in bins) for entry in bins]
            axes.plot(x, y, color=colour, linewidth=1.2)
            axes.scatter(x, y, s=[8 + 60 * share for share in shares], marker=marker, color=colour, linewidths=0)
            names.append((y[-1], name, colour))
        _name_lines(axes, names)
        limits, ticks = (0, 102), range(0, 101, 25)
        axes.set(xlim=limits, ylim=limits, xticks=ticks, yticks=ticks, xlabel="confidence, %")
        axes.set_title("accuracy, %", loc="left", fontsize=8, color=MUTED)
        return to_svg(figure, title)


def spread(heights: Sequence[float], gap: float, top: float = 100.0) -> list[float]:
    """Moves labels as little as possible so that they are at least `gap` apart, in order, within 0 and `top`.

    Least squares under x[i + 1] - x[i] >= gap is isotonic regression of heights[i] - i * gap.
    """
    order = sorted(range(len(heights)), key=heights.__getitem__)
    if not order:
        return []
    offsets = gap * np.arange(len(order))
    fitted = optimize.isotonic_regression(np.array([heights[i] for i in order]) - offsets).x
    placed = np.clip(fitted, 0.0, max(0.0, top - offsets[-1])) + offsets
    return [float(placed[order.index(i)]) for i in range(len(order))]


def _look(number: int) -> tuple[str, str]:
    """Colour and marker of a line."""
    return LINES[number % len(LINES)], MARKERS[number % len(MARKERS)]


def _name_lines(axes: Axes, names: Sequence[tuple[float, str, str]]) -> None:
    """Writes names (height, text, colour) into the right margin, at the heights of their lines or nearby."""
    for height, (_, name, colour) in zip(spread([n[0] for n in names], _GAP), names, strict=True):
        axes.annotate(
            shorten(name, 21), (1, height), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            fontsize=7.5, color=colour, va="center",
        )  # fmt: skip


def _set_values(axes: Axes, values: Sequence[int]) -> None:
    """Scales the horizontal axis to some values, and labels them."""
    if values[-1] >= _LOG_FROM * values[0]:
        axes.set_xscale("log")
        axes.set_xlim(values[0] / 1.25, values[-1] * 1.25)
    else:
        margin = 0.06 * (values[-1] - values[0])
        axes.set_xlim(values[0] - margin, values[-1] + margin)
    stride = -(-len(values) // _TICKS)
    ticks = [*values[:-1:stride], values[-1]]
    axes.set_xticks(ticks, [_abbreviate(value) for value in ticks])
    axes.minorticks_off()


def _abbreviate(value: int) -> str:
    """A number in three digits: 350, 2.5k, 125M, 1.3B."""
    for size, suffix in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if value >= 0.9995 * size:  # so that rounding does not give 1,000 of the next smaller unit
            return f"{value / size:.3g}{suffix}"
    return str(value)
