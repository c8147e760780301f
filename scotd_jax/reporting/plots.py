"""Plots as small inline SVG panels, in the fonts and the light or dark colours of the page.

Matplotlib draws with placeholder colours, which are then replaced by variables of the style sheet; text stays text.
Panels are narrow, so that the page can arrange them side by side or, on a phone, below each other.
"""

import io
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from xml.sax.saxutils import quoteattr

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import optimize

from scotd_jax.reporting.data import EvalSet
from scotd_jax.reporting.tables import ArmRow, percent

INK, MUTED, GRID, ACCENT, SECOND, THIRD, PAPER = (f"#0102{i:02x}" for i in range(3, 10))
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    ACCENT: "accent",
    SECOND: "second",
    THIRD: "third",
    PAPER: "paper",
}
LINES = (ACCENT, SECOND, THIRD, MUTED)  # colours of the curves of a plot, in order
WIDTH = 3.6  # inches
MAX_POINTS = 150  # per curve; more would only increase the size of the page

_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a name is literal
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.labelsize": 8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
}


def accuracy_panel(
    rows: Sequence[ArmRow], evalset: EvalSet, highlight: Iterable[tuple[str, str]] = (), *, name_models: bool = False
) -> str:
    """Returns a plot of accuracies with intervals, one line per arm, with a dotted line at chance.

    Students have filled dots, reference models hollow ones; small dots are single runs.

    Args:
      rows: arms.
      evalset: the question set.
      highlight: (model, arm) pairs to draw in the accent colour.
      name_models: whether to append the model to the names of arms.
    """
    highlight = set(highlight)
    shown = [r for r in rows if evalset.label in r.cells]
    with mpl.rc_context(_STYLE):
        figure, axes = _panel(0.55 + 0.36 * len(shown), top=0.12, left=0.1, right=0.5)
        chances = [c for r in shown if (c := r.cells[evalset.label].chance) is not None]
        if chances:
            _chance(axes, sum(chances) / len(chances))
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
            axes.plot(100 * cell.estimate.value, y, "o", color=colour, markerfacecolor=fill, markersize=5.5)
            weight = "bold" if method else "normal"
            axes.text(0, y - 0.3, _short(name), fontsize=8, color=colour, weight=weight, va="center")
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
        return _svg(figure, f"Accuracy in percent on {evalset.name} with intervals, one line per arm")


def samples_panel(
    curves: Mapping[str, Sequence[ArmRow]], evalset: EvalSet, references: Mapping[str, Mapping[str, float]]
) -> str:
    """Returns a plot of accuracy against rationales per question (logarithmic), one line with intervals per curve.

    Labels are in the margin, at the height of their line.

    Args:
      curves: label -> rows with `samples`.
      evalset: the question set.
      references: label of a curve -> dashed lines to draw with it: name -> accuracy (fraction) of a student that was
        trained without sampled rationales.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _panel(2.4, top=0.3, left=0.34, right=1.2)
        named: list[tuple[float, str, str]] = []
        chances = []
        for (label, rows), colour in zip(curves.items(), LINES * len(curves), strict=False):
            points = sorted((r for r in rows if evalset.label in r.cells), key=lambda r: r.samples or 0)
            cells = [r.cells[evalset.label] for r in points]
            x, y = [r.samples or 0 for r in points], [100 * c.estimate.value for c in cells]
            below = [100 * (c.estimate.value - c.estimate.low) for c in cells]
            above = [100 * (c.estimate.high - c.estimate.value) for c in cells]
            chances += [100 * c.chance for c in cells if c.chance is not None]
            axes.errorbar(x, y, [below, above], fmt="o-", color=colour, markersize=4.5, linewidth=1.6, elinewidth=1)
            if len(curves) > 1 and y:
                named.append((y[-1], label, colour))
            for name, accuracy in references.get(label, {}).items():
                shade = colour if len(curves) > 1 else MUTED
                axes.axhline(100 * accuracy, color=shade, linewidth=1, linestyle=(0, (5, 3)))
                named.append((100 * accuracy, name, shade))
        if chances:
            named.append((sum(chances) / len(chances), "chance", MUTED))
            axes.axhline(named[-1][0], color=MUTED, linewidth=1, linestyle=":")
        for height, (_, name, colour) in zip(spread([n[0] for n in named], 8.0), named, strict=True):
            axes.annotate(
                _short(name, 21), (1, height), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                fontsize=7.5, color=colour, va="center",
            )  # fmt: skip
        ticks = sorted({r.samples for rows in curves.values() for r in rows if r.samples})
        axes.set_xscale("log")
        axes.set(xlim=(min(ticks) / 1.25, max(ticks) * 1.25), ylim=(0, 100), xlabel="rationales per question (N)")
        axes.set_title("accuracy, %", loc="left", fontsize=8, color=MUTED)
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        return _svg(figure, f"Accuracy on {evalset.name} against the number of rationales per question")


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


def training_panel(name: str, runs: Mapping[str, Sequence[tuple[int, float | None, float | None]]]) -> str:
    """Returns a plot of one arm's training loss and, if there is any, dev accuracy against the step."""
    has_dev = any(row[2] is not None for rows in runs.values() for row in rows)
    with mpl.rc_context(_STYLE):
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
        return _svg(figure, f"Training loss and dev accuracy of {name}")


def thin(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Returns about MAX_POINTS evenly spaced points, including the last one."""
    stride = -(-len(points) // MAX_POINTS) or 1
    return [*points[:-1:stride], *points[-1:]]


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [p[0] for p in points], [p[1] for p in points]


def _panel(height: float, *, top: float, left: float, right: float) -> tuple[Figure, Axes]:
    """Returns a figure with one axes and fixed margins in inches; the bottom one has room for a label."""
    figure = Figure(figsize=(WIDTH, height))
    box = (left / WIDTH, 0.4 / height, 1 - (left + right) / WIDTH, 1 - (0.4 + top) / height)
    return figure, figure.add_axes(box)


def _chance(axes: Axes, chance: float) -> None:
    axes.axvline(100 * chance, color=MUTED, linewidth=1, linestyle=":")
    axes.annotate(
        "chance", (100 * chance, 0), (0, -26), xycoords=("data", "axes fraction"), textcoords="offset points",
        fontsize=7.5, color=MUTED, ha="center",
    )  # fmt: skip


def _short(name: str, limit: int = 44) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _svg(figure: Figure, title: str) -> str:
    """Returns the figure as an <svg> element without a fixed size, whose ids are unique in a page with other plots."""
    buffer = io.StringIO()
    salt = re.sub(r"\W+", "-", title)
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": salt}):
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing"
        )  # matplotlib only measures glyphs; the browser draws the text
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="[^"]+"', svg)
    assert box is not None, "matplotlib wrote an SVG without viewBox"
    svg = f'<svg {box[0]} role="img" aria-label={quoteattr(title)}>' + svg[svg.index(">") + 1 :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{salt}-", svg).replace("xlink:href", "href")
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", svg)  # the font family with its fallbacks
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var(--{variable})")
    return svg
