"""Sphinx directive `config-reference`: documents the config dataclasses from their source code.

The descriptions are the comments in `scotd_jax/config/schema.py`, so the page cannot disagree with the code.
"""

import ast
import dataclasses
import io
import tokenize
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SCHEMA = Path(__file__).resolve().parents[2] / "scotd_jax" / "config" / "schema.py"


@dataclasses.dataclass(frozen=True)
class Field:
    """One config key."""

    name: str
    type: str
    default: str  # source text; "" if the field is required
    description: str


@dataclasses.dataclass(frozen=True)
class ConfigClass:
    """One config dataclass."""

    name: str
    description: str
    fields: tuple[Field, ...]
    bases: tuple[str, ...]


def read_schema(path: Path = SCHEMA) -> list[ConfigClass]:
    """Returns the dataclasses of a schema file in the order of the file, with their comments.

    The description of a field is the comment at the end of its line and any comment lines directly above it.
    """
    source = path.read_text()
    lines = source.split("\n")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}
    classes = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list):
            fields = tuple(_field(f, comments, lines) for f in node.body if isinstance(f, ast.AnnAssign))
            bases = tuple(ast.unparse(base) for base in node.bases)
            classes.append(ConfigClass(node.name, ast.get_docstring(node) or "", fields, bases))
    return classes


def _field(node: ast.AnnAssign, comments: dict[int, str], lines: list[str]) -> Field:
    above, number = [], node.lineno - 1
    while number in comments and lines[number - 1].lstrip().startswith("#"):
        above.insert(0, comments[number])
        number -= 1
    beside = [comments[n] for n in range(node.lineno, node.end_lineno + 1) if n in comments]
    return Field(node.target.id, ast.unparse(node.annotation), _default(node.value), " ".join(above + beside))


def _default(value: ast.expr | None) -> str:
    if value is None:
        return ""
    if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field"):
        keywords = {k.arg: k.value for k in value.keywords}
        if "default" in keywords:
            return ast.unparse(keywords["default"])
        factory = keywords.get("default_factory")
        if isinstance(factory, ast.Lambda):
            return ast.unparse(factory.body)
        return {"dict": "{}", "list": "[]", "tuple": "()"}.get(ast.unparse(factory), f"{ast.unparse(factory)}()")
    return ast.unparse(value)


class ConfigReference(SphinxDirective):
    """Renders every config dataclass as a section with its fields."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(SCHEMA))
        classes = read_schema()
        names = {cls.name for cls in classes}
        order = sorted(classes, key=lambda cls: cls.name != "Config")  # the whole config first
        return [self._section(cls, names) for cls in order]

    def _section(self, cls: ConfigClass, names: set[str]) -> nodes.section:
        section = nodes.section(ids=[_anchor(cls.name)])
        section += nodes.title(cls.name, cls.name)
        bases = [base for base in cls.bases if base in names]
        for text in cls.description.split("\n\n"):
            section += _paragraph(" ".join(text.split()))
        if bases:
            section += nodes.paragraph("", "Also has the fields of ", *(_link(base) for base in bases), nodes.Text("."))
        listed = nodes.definition_list(classes=["config-fields"])
        for field in cls.fields:
            term = nodes.term("", "", nodes.literal(field.name, field.name), nodes.Text(": "))
            term += _type(field.type, names)
            if field.default:
                term += nodes.inline("", f" = {field.default}", classes=["default"])
            listed += nodes.definition_list_item("", term, nodes.definition("", _paragraph(field.description)))
        section += listed
        self.state.document.note_explicit_target(section, section)
        return section


def _anchor(name: str) -> str:
    return f"config-{name.lower()}"


def _link(name: str) -> nodes.reference:
    return nodes.reference("", name, refid=_anchor(name), internal=True)


def _type(text: str, names: set[str]) -> list[nodes.Node]:
    """The type as text; a config class inside it links to its section."""
    name = next((n for n in sorted(names, key=len, reverse=True) if n in text.replace("[", " ").replace("]", " ").replace(",", " ").split()), "")
    if not name:
        return [nodes.Text(text)]
    before, _, after = text.partition(name)
    return [nodes.Text(before), _link(name), nodes.Text(after)]


def _paragraph(text: str) -> nodes.paragraph:
    """Text with `code` in backticks."""
    paragraph = nodes.paragraph()
    for i, piece in enumerate(text.split("`")):
        paragraph += nodes.literal(piece, piece) if i % 2 else nodes.Text(piece)
    return paragraph


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("config-reference", ConfigReference)
    return {"parallel_read_safe": True}
