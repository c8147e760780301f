"""Sphinx directive `config-reference`: documents the config dataclasses from their source code.

The descriptions are the comments in `scotd_jax/config/`, so the page cannot disagree with the code.
"""

import re

from docutils import nodes
from schema_source import SCHEMA_FILES, ConfigClass, read_schema
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class ConfigReference(SphinxDirective):
    """Renders every config dataclass as a section with its fields."""

    def run(self) -> list[nodes.Node]:
        for path in SCHEMA_FILES:
            self.env.note_dependency(str(path))
        classes = read_schema()
        names = {cls.name for cls in classes}
        return [self._section(cls, names) for cls in classes]

    def _section(self, cls: ConfigClass, names: set[str]) -> nodes.section:
        section = nodes.section(ids=[_anchor(cls.name)])
        section += nodes.title(cls.name, cls.name)
        for text in cls.description.split("\n\n"):
            section += _paragraph(" ".join(text.split()))
        listed = nodes.definition_list(classes=["config-fields"])
        for field in cls.fields:
            term = nodes.term("", "", nodes.literal(field.name, field.name), nodes.Text(": "))
            term += _type(field.type, names)
            if field.default:
                term += nodes.inline("", f" = {field.default}", classes=["default"])
            listed += nodes.definition_list_item("", term, nodes.definition("", _paragraph(field.description)))
        section += listed
        self.state.document.note_explicit_target(section, section)
        # A label of the whole project, so that pages link to it as [...](#config-training).
        labels = self.env.get_domain("std").data
        labels["labels"][_anchor(cls.name)] = self.env.docname, _anchor(cls.name), cls.name
        labels["anonlabels"][_anchor(cls.name)] = self.env.docname, _anchor(cls.name)
        return section


def _anchor(name: str) -> str:
    return f"config-{name.lower()}"


def _link(name: str) -> nodes.reference:
    return nodes.reference("", name, refid=_anchor(name), internal=True)


def _type(text: str, names: set[str]) -> list[nodes.Node]:
    """The type as text; a config class inside it links to its section."""
    return [_link(word) if word in names else nodes.Text(word) for word in re.split(r"(\w+)", text)]


def _paragraph(text: str) -> nodes.paragraph:
    """Text with `code` in backticks."""
    paragraph = nodes.paragraph()
    for i, piece in enumerate(text.split("`")):
        paragraph += nodes.literal(piece, piece) if i % 2 else nodes.Text(piece)
    return paragraph


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("config-reference", ConfigReference)
    return {"parallel_read_safe": True}
