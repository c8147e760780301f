"""The report as one self-contained HTML page: headline first, then the numbers, then example responses.

The page has no scripts and no external resources. It is readable on a phone, in light and dark, and in print. All text
that comes from a model or a file is escaped.
"""

from typing import Any

import jinja2
import markupsafe
from etils import epath

from scotd_jax.atomic import atomic_write
from scotd_jax.progress import format_seconds
from scotd_jax.reporting import tables
from scotd_jax.reporting.claims import claims_markdown
from scotd_jax.reporting.data import ReportData
from scotd_jax.reporting.page_content import page_content


def write_report(folder: epath.PathLike, data: ReportData) -> None:
    """Writes index.html, the results as results.tex and results.md, and claims.md if there are claims.

    Creates the folder.

    Raises:
      InputError: if the disk is full.
    """
    content = page_content(data)
    files = {"index.html": _render(content), **content["result_files"]}
    if content["claims"]:
        files["claims.md"] = claims_markdown(content["claims"], data.confidence)
    for name, text in files.items():
        with atomic_write(epath.Path(folder) / name) as file:
            file.write(text.encode())


def render(data: ReportData) -> str:
    """Returns the page. Equal data give equal text."""
    return _render(page_content(data))


def _render(content: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("scotd_jax.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": tables.percent,
        "span": tables.span,
        "points": tables.points,
        "p_text": tables.p_text,
        "duration": format_seconds,
    }
    style = environment.loader.get_source(environment, "style.css")[0] if environment.loader else ""
    return environment.get_template("report.html").render(content, style=markupsafe.Markup(style))
