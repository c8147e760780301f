"""Reads the config dataclasses from their source code: names, types, defaults and the comments that describe them."""

import ast
import dataclasses
import io
import re
import tokenize
from pathlib import Path

CONFIG = Path(__file__).resolve().parents[2] / "scotd_jax" / "config"
SCHEMA_FILES = tuple(CONFIG / name for name in ("schema.py", "rationale_sources.py", "evaluation_schema.py"))


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


def read_schema(files: tuple[Path, ...] = SCHEMA_FILES) -> list[ConfigClass]:
    """Returns the dataclasses of the schema files with their comments; a class is followed by the classes it refers to.

    The description of a field is the comment at the end of its line and any comment lines directly above it.
    """
    trees = {path: ast.parse(path.read_text()) for path in files}
    aliases = {name: text for tree in trees.values() for name, text in _aliases(tree).items()}
    classes = {cls.name: cls for path, tree in trees.items() for cls in _classes(tree, path.read_text(), aliases)}
    ordered: dict[str, ConfigClass] = {}
    _add("Config", classes, ordered)
    return [*ordered.values(), *(cls for name, cls in classes.items() if name not in ordered)]


def _add(name: str, classes: dict[str, ConfigClass], ordered: dict[str, ConfigClass]) -> None:
    if name in ordered:
        return
    ordered[name] = classes[name]
    for field in classes[name].fields:
        for word in re.findall(r"\w+", field.type):
            if word in classes:
                _add(word, classes, ordered)


def _aliases(tree: ast.Module) -> dict[str, str]:
    """Type aliases of a module: `Names = tuple[str, ...]`."""
    return {
        node.targets[0].id: ast.unparse(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Subscript, ast.BinOp))
    }


def _classes(tree: ast.Module, source: str, aliases: dict[str, str]) -> list[ConfigClass]:
    lines = source.split("\n")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}
    return [
        ConfigClass(
            node.name,
            ast.get_docstring(node) or "",
            tuple(_field(f, comments, lines, aliases) for f in node.body if isinstance(f, ast.AnnAssign)),
        )
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list)
    ]


def _field(node: ast.AnnAssign, comments: dict[int, str], lines: list[str], aliases: dict[str, str]) -> Field:
    above, number = [], node.lineno - 1
    while number in comments and lines[number - 1].lstrip().startswith("#"):
        above.insert(0, comments[number])
        number -= 1
    beside = [comments[n] for n in range(node.lineno, node.end_lineno + 1) if n in comments]
    kind = re.sub(r"\w+", lambda word: aliases.get(word[0], word[0]), ast.unparse(node.annotation))
    return Field(node.target.id, kind.replace("'", '"'), _default(node.value), " ".join(above + beside))


def _default(value: ast.expr | None) -> str:
    if value is None:
        return ""
    if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field"):
        keywords = {k.arg: k.value for k in value.keywords}
        if "default" in keywords:
            return _default(keywords["default"])
        factory = keywords["default_factory"]
        if isinstance(factory, ast.Lambda):
            return _default(factory.body)
        return {"dict": "{}", "list": "[]", "tuple": "()"}.get(ast.unparse(factory), f"{ast.unparse(factory)}()")
    return ast.unparse(value).replace("'", '"')
