"""Small inline SVG panels in the fonts and the light or dark colours of the page.

Matplotlib draws with placeholder colours, which are then replaced by variables of the style sheet; text stays text.
Panels are narrow, so that the page can arrange them side by side or, on a phone, below each other.
"""

import io
import re
import warnings
from xml.sax.saxutils import quoteattr

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_NAMES = ("ink", "muted", "grid", "paper", *(f"line-{i}" for i in range(8)))  # variables of the style sheet
_COLOURS = {f"#0102{i:02x}": name for i, name in enumerate(_NAMES, 3)}
INK, MUTED, GRID, PAPER, *LINES = _COLOURS  # LINES: colours of the lines of a plot, in order
ACCENT = LINES[0]
MARKERS = "osD^vPX*"  # of the lines of a plot, which also distinguish them without colours
WIDTH = 3.6  # inches

STYLE = {
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


def panel(height: float, *, top: float, left: float, right: float) -> tuple[Figure, Axes]:
    """Returns a figure with one axes and fixed margins in inches; the bottom one has room for a label."""
    figure = Figure(figsize=(WIDTH, height))
    box = (left / WIDTH, 0.4 / height, 1 - (left + right) / WIDTH, 1 - (0.4 + top) / height)
    return figure, figure.add_axes(box)


def shorten(name: str, limit: int = 44) -> str:
    """Returns a name of at most `limit` characters."""
    return name if len(name) <= limit else name[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def to_svg(figure: Figure, title: str) -> str:
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
    for placeholder, variable in _COLOURS.items():
        svg = svg.replace(placeholder, f"var(--{variable})")
    return svg
