"""Naming rules: unique class and file names, public docstrings, and no words that the glossary of the style guide bans.

The code uses the field's words: models generate and are prompted, functions return and raise. A word in BANNED has a
standard replacement, given in the second column. An entry in ALLOWED is a narrow, reasoned exception.
"""

import ast
import collections
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "scotd_jax"
PYTHON_FILES = sorted(
    file
    for folder in ("scotd_jax", "configs", "benchmarks", "examples", "tests", "docs")
    for file in (ROOT / folder).rglob("*.py")
)
PROSE_FILES = sorted(
    [
        *(file for folder in ("docs", "scotd_jax", "launch") for file in (ROOT / folder).rglob("*.md")),
        *(ROOT / "scotd_jax").rglob("*.html"),
        *(ROOT / "launch").rglob("*.sh"),
        *ROOT.glob("*.md"),
    ]
)

# File names that occur in several folders, with the reason why the folder makes them unambiguous.
REPEATED_FILE_NAMES = {
    "__init__.py": "required by Python",
    "registry.py": "tasks/, rationales/importers/ and models/ each have one table of names",
    "export.py": "jobs/export.py is the job, models/hf/export.py writes the files of a model",
    "loading.py": "config/loading.py loads configs, models/hf/loading.py loads weights",
    "api.py": "scotd_jax/api.py is the public Python API, models/api.py the interface of the models",
    "requests.py": "requests to the sampler and requests to a server",
}

# Banned word -> what to write instead.
BANNED = {
    "say": "generate, return, state, set",
    "says": "generates, returns, states, sets",
    "said": "response, generated text",
    "saying": "generating",
    "speak": "generate",
    "speaks": "generates",
    "speaking": "generation",
    "speaker": "model, PromptedModel",
    "ask": "prompt, request",
    "asks": "prompts, requests",
    "asked": "prompted, requested, questions_by_id",
    "asking": "EvalSpec, prompting",
    "askings": "evals",
    "told": "explicit arguments, printed",
    "tells": "returns, prints, states",
    "door": "command line",
    "lane": "slot",
    "lanes": "slots",
    "mend": "fix",
    "mends": "fixes",
    "mended": "fixed",
    "whoever": "the process that, a user who",
    "wholly": "completely",
    "learnt": "trained",
    "regime": "ForwardOptions",
    "manner": "prompt settings",
    "rolled": "scanned",
    "rolling": "scan over layers",
    "circle": "cycle",
    "sights": "masks_and_biases",
    "visit": "draw",
    "visits": "draws",
    "dealing": "length balancing",
    "remedy": "suggestion, fix",
    "remedies": "suggestions, fixes",
    "whom": "a shorter sentence",
    "talk": "conversation",
}


# (file or folder, banned word) -> why the word is right there.
ALLOWED: dict[tuple[str, str], str] = {
    ("tests/test_naming.py", "*"): "lists the banned words",
    ("scotd_jax/tasks/world_vocabulary.py", "lane"): "an operation in the questions of the embedded world",
    ("scotd_jax/models/kernels/", "lanes"): "the vector lanes of an accelerator",
    ("scotd_jax/config/loading.py", "*"): "old config keys, which are refused with the new name",
    ("tests/test_config.py", "*"): "checks that old config keys are refused",
    ("tests/test_main.py", "asking"): "checks that an old class name is refused",
    ("tests/tasks/test_recipes.py", "ask"): "checks that an old template field is refused",
    ("tests/configs/riddles.py", "door"): "text of an invented riddle",
    ("tests/tasks/test_own_task.py", "door"): "text of an invented riddle",
    ("scotd_jax/lm_eval_model.py", "rolling"): "the name of a method in lm-eval's interface",
    ("tests/test_lm_eval_model.py", "rolling"): "the name of a method in lm-eval's interface",
    ("CHANGELOG.md", "*"): "lists the old names beside the new ones",
}


def words_of(text: str) -> Iterator[str]:
    """Yields the lower-case words of a text; snake_case and CamelCase identifiers count as several words."""
    for word in re.findall(r"[A-Za-z]+", text):
        yield from (part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", word))


def banned_words(text: str) -> list[str]:
    """Returns the banned words of a text, in order."""
    return [word for word in words_of(text) if word in BANNED]


def python_text(file: Path) -> Iterator[tuple[int, str]]:
    """Yields (line number, text) of the names, comments and strings of a Python file."""
    kinds = {tokenize.NAME, tokenize.COMMENT, tokenize.STRING}
    kinds |= {getattr(tokenize, name) for name in ("FSTRING_MIDDLE",) if hasattr(tokenize, name)}
    for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
        if token.type in kinds:
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line


def findings(file: Path) -> list[str]:
    """Returns "FILE:LINE: word" for the banned words of a file, without the allowed ones."""
    name = file.relative_to(ROOT).as_posix()
    lines = python_text(file) if file.suffix == ".py" else enumerate(file.read_text().splitlines(), start=1)
    return [
        f"{name}:{number}: {word!r}; write {BANNED[word]}: {text.strip()[:80]}"
        for number, text in lines
        for word in banned_words(text)
        if not any(name.startswith(place) and allowed in (word, "*") for place, allowed in ALLOWED)
    ]


def class_names(source: str) -> list[str]:
    """Returns the names of all classes in a source text."""
    return [node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]


def undocumented(source: str) -> list[str]:
    """Returns the module, public classes and public functions of a source text that have no docstring."""
    module = ast.parse(source)
    missing = [] if ast.get_docstring(module) else ["the module"]
    for node in module.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            missing += [] if ast.get_docstring(node) else [node.name]
    return missing


def test_class_names_are_unique():
    where = collections.defaultdict(list)
    for file in PACKAGE.rglob("*.py"):
        for name in class_names(file.read_text()):
            where[name].append(file.relative_to(ROOT).as_posix())
    assert {name: files for name, files in where.items() if len(files) > 1} == {}


def test_file_names_are_unique():
    where = collections.defaultdict(list)
    for file in PACKAGE.rglob("*.py"):
        where[file.name].append(file.relative_to(ROOT).as_posix())
    repeated = {name: files for name, files in where.items() if len(files) > 1 and name not in REPEATED_FILE_NAMES}
    assert repeated == {}
    assert {name for name in REPEATED_FILE_NAMES if len(where[name]) < 2} == set(), "no longer repeated"


def test_public_names_have_docstrings():
    missing = [
        f"{file.relative_to(ROOT).as_posix()}: {name}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for name in undocumented(file.read_text())
    ]
    assert missing == []


@pytest.mark.parametrize("folder", sorted({f.relative_to(ROOT).parts[0] for f in [*PYTHON_FILES, *PROSE_FILES]}))
def test_no_banned_words(folder):
    files = [f for f in [*PYTHON_FILES, *PROSE_FILES] if f.relative_to(ROOT).parts[0] == folder]
    assert [finding for file in files for finding in findings(file)] == []


def test_checks_can_fail():
    assert banned_words("task masks 'basket' soften") == []
    assert banned_words("asked_for = WhoeverAsks()  # Says 5") == ["asked", "whoever", "asks", "says"]
    assert class_names("class A: pass\ndef f():\n  class A: pass") == ["A", "A"]
    assert undocumented("class A:\n  def f(self): pass\ndef _g(): pass\ndef h(): 'Text.'") == ["the module", "A"]
