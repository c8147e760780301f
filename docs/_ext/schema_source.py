"""Reads the config dataclasses from their source code: names, types, defaults and the comments that describe them."""

import ast
import dataclasses
import io
import tokenize
from collections.abc import Sequence
from pathlib import Path

CONFIG = Path(__file__).resolve().parents[2] / "scotd_jax" / "config"
SCHEMA_FILES = (CONFIG / "schema.py", CONFIG / "rationale_sources.py")


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


def read_schema(paths: Sequence[Path] = SCHEMA_FILES) -> list[ConfigClass]:
    """Returns the dataclasses of schema files in the order of the files, with their comments.

    The description of a field is the comment at the end of its line and any comment lines directly above it.
    """
    return [cls for path in paths for cls in _read_file(path)]


def _read_file(path: Path) -> list[ConfigClass]:
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
