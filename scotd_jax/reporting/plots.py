"""Plots of accuracies and of training, one panel each."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scotd_jax.reporting.data import EvalSet
from scotd_jax.reporting.figures import ACCENT, INK, LINES, MUTED, PAPER, STYLE, WIDTH, panel, shorten, to_svg
from scotd_jax.reporting.tables import ArmRow, percent

MAX_POINTS = 150  # per curve; more would only increase the size of the page


def accuracy_panel(
    rows: Sequence[ArmRow],
    evalset: EvalSet,
    highlight: Iterable[tuple[str, str]] = (),
    *,
    name_models: bool = False,
    majority: Mapping[str, Any] | None = None,
) -> str:
    """Returns a plot of accuracies with intervals, one line per arm, with dotted lines at chance and majority answer.

    Students have filled dots, reference models hollow ones; small dots are single runs.

    Args:
      rows: arms.
      evalset: the question set.
      highlight: (model, arm) pairs to draw in the accent colour.
      name_models: whether to append the model to the names of arms.
      majority: `answer_rows.majority` of the set; None if unknown.
    """
    highlight = set(highlight)
    shown = [r for r in rows if evalset.label in r.cells]
    with mpl.rc_context(STYLE):
        figure, axes = panel(0.55 + 0.36 * len(shown), top=0.12, left=0.1, right=0.5)
        chances = [c for r in shown if (c := r.cells[evalset.label].chance) is not None]
        lines = [(sum(chances) / len(chances), "chance")] if chances else []
        lines += [(majority["accuracy"], "majority")] if majority else []
        # Names are on the outer sides of two lines, so that they do not overlap.
        for (accuracy, name), side in zip(
            sorted(lines), ("right", "left") if len(lines) > 1 else ("center",), strict=False
        ):
            _vertical(axes, accuracy, name, side)
        for y, row in enumerate(shown):
            cell = row.cells[evalset.label]
            method = (row.model, row.name) in highlight
            name = f"{row.name}, {row.model}" if name_models and row.model else row.name
            colour = ACCENT if method else INK if row.role == "student" else MUTED
            axes.plot([100 * cell.estimate.low, 100 * cell.estimate.high], [y, y], color=colour, linewidth=1.6)
            fill = colour if row.role == "student" else PAPER
            if len(cell.run_accuracies) > 1:
                axes.plot(
                    [100 * v for v in cell.run_accuracies],
                    [y + 0.17] * len(cell.run_accuracies),
                    ".",
                    color=colour,
                    markersize=2.5,
                )
            dot = {"color": colour, "markerfacecolor": fill, "markersize": 5.5}
            axes.plot(100 * cell.estimate.value, y, "o", clip_on=False, **dot)  # whole also at 0 and 100
            weight = "bold" if method else "normal"
            axes.text(0, y - 0.3, shorten(name), fontsize=8, color=colour, weight=weight, va="center")
            axes.text(
                103,
                y,
                percent(cell.estimate.value),
                fontsize=9,
                color=colour,
                weight=weight,
                va="center",
                clip_on=False,
            )
        axes.set(xlim=(0, 100), ylim=(len(shown) - 0.5, -0.65), xticks=range(0, 101, 25), yticks=[])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        return to_svg(figure, f"Accuracy in percent on {evalset.name} with intervals, one line per arm")


def training_panel(name: str, runs: Mapping[str, Sequence[tuple[int, float | None, float | None]]]) -> str:
    """Returns a plot of one arm's training loss and, if there is any, dev accuracy against the step."""
    has_dev = any(row[2] is not None for rows in runs.values() for row in rows)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.9 if has_dev else 1.8))
        all_axes = figure.subplots(2 if has_dev else 1, 1, sharex=True, squeeze=False)[:, 0]
        height = figure.get_figheight()
        margins = {"left": 0.36 / WIDTH, "right": 1 - 0.12 / WIDTH, "top": 1 - 0.25 / height, "bottom": 0.42 / height}
        figure.subplots_adjust(**margins, hspace=0.4)
        for rows, colour in zip(runs.values(), LINES * len(runs), strict=False):
            width = 1.3 if len(runs) == 1 else 0.9
            loss = thin([(step, value) for step, value, _ in rows if value is not None])
            all_axes[0].plot(*_columns(loss), color=colour, linewidth=width)
            dev = thin([(step, 100 * value) for step, _, value in rows if value is not None])
            if dev:
                all_axes[1].plot(*_columns(dev), ".-", color=colour, linewidth=width, markersize=4)
                best = max(dev, key=lambda point: point[1])  # the first of equal values, like the selected checkpoint
                all_axes[1].plot(*best, "o", color=colour, markerfacecolor=PAPER, markersize=6)
        all_axes[0].set_ylim(bottom=0)
        all_axes[0].set_title("training loss", loc="left", fontsize=8, color=MUTED)
        if has_dev:
            all_axes[1].set_ylim(0, 100)
            all_axes[1].set_title("dev accuracy, %", loc="left", fontsize=8, color=MUTED)
        all_axes[-1].set_xlabel("step")
        return to_svg(figure, f"Training loss and dev accuracy of {name}")


def thin(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Returns about MAX_POINTS evenly spaced points, including the last one."""
    stride = -(-len(points) // MAX_POINTS) or 1
    return [*points[:-1:stride], *points[-1:]]


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [p[0] for p in points], [p[1] for p in points]


def _vertical(axes: Axes, accuracy: float, name: str, alignment: str) -> None:
    """A dotted line with its name below the axis."""
    axes.axvline(100 * accuracy, color=MUTED, linewidth=1, linestyle=":")
    axes.annotate(
        name, (100 * accuracy, 0), (0, -26), xycoords=("data", "axes fraction"), textcoords="offset points",
        fontsize=7.5, color=MUTED, ha=alignment,
    )  # fmt: skip
