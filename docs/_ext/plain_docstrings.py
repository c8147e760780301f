"""Sphinx extension: renders docstrings written as plain text in Google style.

Docstrings use `code` in single backticks, plain tables and nested lists, which are not reStructuredText. This hook runs
before napoleon: it escapes inline markup and sets tables and nested lists as literal blocks.
"""

import re
from typing import Any

from sphinx.application import Sphinx

SECTION = re.compile(r"(Args|Arguments|Attributes|Example|Examples|Note|Raises|Returns|Yields):\s*$")
LIST_ITEM = re.compile(r"(- |\* |\d+\. )")


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    del app, what, name, obj, options
    section = next((i for i, line in enumerate(lines) if SECTION.match(line)), len(lines))
    text = [part for block in _blocks(lines[:section]) for part in _render(block)]
    lines[:] = text + [_escape(line) for line in lines[section:]]


def _blocks(lines: list[str]) -> list[list[str]]:
    """Runs of lines that are not blank."""
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def _render(block: list[str]) -> list[str]:
    indents = [len(line) - len(line.lstrip()) for line in block]
    if indents[0] == 0 and set(indents) == {0} and not LIST_ITEM.match(block[0]):
        return [*map(_escape, block), ""]
    if LIST_ITEM.match(block[0]) and all(indent in (0, _hang(block[0])) for indent in indents) and _flat(block):
        return [*map(_escape, block), ""]
    return ["::", "", *("    " + line for line in block), ""]


def _hang(line: str) -> int:
    return LIST_ITEM.match(line).end()


def _flat(block: list[str]) -> bool:
    """Whether every line starts an item or continues one."""
    return all(LIST_ITEM.match(line) or line.startswith(" ") for line in block) and not any(
        LIST_ITEM.match(line.lstrip()) or re.match(r"[a-z]\. ", line.lstrip()) for line in block if line.startswith(" ")
    )


def _escape(line: str) -> str:
    """Single backticks become literals; other inline markup of reStructuredText is text."""
    pieces = re.split(r"(``[^`]*``|:\w+:`[^`]*`|`[^`]*`)", line)
    rendered = [_literal(piece) if i % 2 else _plain(piece) for i, piece in enumerate(pieces)]
    for i in range(1, len(rendered) - 1, 2):
        if re.match(r"\w", rendered[i + 1]):  # a literal ends at white space or punctuation only
            rendered[i] += "\\ "
    return "".join(rendered)


def _literal(piece: str) -> str:
    return piece if piece.startswith(("``", ":")) else f"``{piece.strip('`')}``"


def _plain(piece: str) -> str:
    item = re.match(r"\s*\* ", piece)
    head, piece = (piece[: item.end()], piece[item.end() :]) if item else ("", piece)
    piece = re.sub(r"([*|`])", r"\\\1", piece)
    return head + re.sub(r"(\w)_(?=\W|$)", r"\1\\_", piece)


def skip(app: Sphinx, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """The fields of a NamedTuple are documented by the class."""
    del app, what, name, options
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
