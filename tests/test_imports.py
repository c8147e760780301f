"""Import rules: the core runs on a bare accelerator image, imports point down, and the command line starts fast.

The layers are those of docs/architecture.md; a new folder or module at the top level needs an entry in LAYERS.
"""

import ast
import graphlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "scotd_jax"

# From top to bottom: a module may import from its own folder and from layers below.
LAYERS = [
    {"lm_eval_model", "api_training"},
    {"main", "api"},
    {"subcommands"},
    {"dry_run", "listing", "running"},
    {"parallel_steps"},
    {"jobs"},
    {"reporting"},
    {"corpus"},
    {"rationales"},
    {"tasks"},
    {"sampling"},
    {"training"},
    {"evaluation"},
    {"models"},
    {"distributed"},
    {"workdir", "workdir_lock", "tokenization"},
    {"artefact"},
    {"chat_templates", "tokenizer_files"},
    {"local_files"},
    {"atomic", "buckets", "hub", "digests", "preemption"},
    {"config", "progress", "records", "layout", "keyed_random"},
    {"strict_json"},
    {"errors"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

CORE = ("models/", "distributed/")
CORE_FILES = {
    *(f"sampling/{name}.py" for name in ("decode_loop", "noise", "policies")),
    *(f"training/{name}.py" for name in ("losses", "step", "optimizer", "trainable")),
}
# safetensors, ml_dtypes and etils are small; jax, flax and orbax depend on the last two.
CORE_PACKAGES = {"jax", "flax", "optax", "numpy", "jaxtyping", "orbax", "safetensors", "ml_dtypes", "etils"}
STDLIB_ONLY = {
    "config/__init__.py",
    "config/schema.py",
    "config/rationale_sources.py",
    "config/evaluation_schema.py",
    "config/references.py",
    "config/swept_keys.py",
    "config/sweeps.py",
    "config/loading.py",
    "config/file_errors.py",
    "config/packaged.py",
    "records.py",
    "strict_json.py",
    "errors.py",
}
LAZY = {
    "tensorflow",
    "tensorflow_datasets",
    "datasets",
    "clu.metric_writers",
    "grain",
    "torch",
    "transformers",
    "lm_eval",
}

FILES = sorted(PACKAGE.rglob("*.py"))


def imports(file: Path, *, top_only: bool) -> Iterator[str]:
    """Yields the dotted names that a file imports; with `top_only`, without those in function bodies."""
    todo: list[ast.AST] = [ast.parse(file.read_text())]
    while todo:
        node = todo.pop()
        if top_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; write the full name scotd_jax.…"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        todo.extend(ast.iter_child_nodes(node))


def name_of(file: Path) -> str:
    """Returns the path of a file relative to the package."""
    return file.relative_to(PACKAGE).as_posix()


def part_of(file: Path) -> str:
    """Returns the folder of a file, or the name of a module at the top level of the package."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_core(file: Path) -> bool:
    return name_of(file).startswith(CORE) or name_of(file) in CORE_FILES


def layer_of(name: str) -> str:
    """Returns the folder or module after "scotd_jax." in a dotted name, or "" for the package itself."""
    return name.split(".")[1] if "." in name else ""


def foreign(file: Path, allowed: set[str]) -> list[str]:
    """Returns the top-level imports that are not from the standard library, the package or an allowed library."""
    allowed = allowed | {"scotd_jax"} | set(sys.stdlib_module_names)
    return sorted({name for name in imports(file, top_only=True) if name.split(".")[0] not in allowed})


def test_every_file_has_a_layer_and_its_folder_is_a_package():
    for file in FILES:
        assert part_of(file) in LEVEL or part_of(file) == "__init__", f"add {name_of(file)} to LAYERS"
        assert (file.parent / "__init__.py").is_file(), f"{file.parent} needs an __init__.py, or wheels leave it out"


@pytest.mark.parametrize("file", [f for f in FILES if is_core(f)], ids=name_of)
def test_core_imports_only_what_a_bare_accelerator_image_has(file):
    assert foreign(file, CORE_PACKAGES) == []


@pytest.mark.parametrize("file", [f for f in FILES if name_of(f) in STDLIB_ONLY], ids=name_of)
def test_lowest_layer_imports_only_the_standard_library(file):
    assert foreign(file, set()) == []


@pytest.mark.parametrize("file", [f for f in FILES if part_of(f) != "__init__"], ids=name_of)
def test_imports_point_down(file):
    part = part_of(file)
    for name in imports(file, top_only=False):
        if name.split(".")[0] == "scotd_jax" and layer_of(name) not in ("", "__version__", part):
            assert layer_of(name) in LEVEL, f"{name_of(file)} imports {name}, which is not in LAYERS"
            assert LEVEL[layer_of(name)] > LEVEL[part], f"{name_of(file)} imports {name} from above or beside it"


def test_no_import_cycles():
    modules = {f"scotd_jax.{name_of(f).removesuffix('.py').replace('/', '.')}": f for f in FILES}
    graph = {
        module: {m for name in imports(file, top_only=True) for m in (name, name.rpartition(".")[0]) if m in modules}
        for module, file in modules.items()
    }
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert set(order) == set(modules)


def borrowed_names(file: Path) -> set[str]:
    """Returns the dotted names that other modules could import from a file although it only imports them itself."""
    module = f"scotd_jax.{name_of(file).removesuffix('.py').replace('/', '.')}"
    defined = {getattr(node, "name", "") for node in ast.parse(file.read_text()).body}
    names = {name.rpartition(".")[2] for name in imports(file, top_only=True)}
    return {f"{module}.{name}" for name in names - defined}


def test_names_are_imported_from_the_module_that_defines_them():
    """Otherwise a module cannot drop an import that it no longer needs, and readers look into the wrong file."""
    borrowed = set().union(*(borrowed_names(file) for file in FILES if file.stem != "__init__"))
    users = [*FILES, *(file for folder in ("tests", "benchmarks") for file in (ROOT / folder).rglob("*.py"))]
    found = {file.relative_to(ROOT).as_posix(): borrowed.intersection(imports(file, top_only=False)) for file in users}
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.slow
def test_importing_the_package_does_not_import_heavy_libraries():
    """Covers indirect imports: one process imports the whole package and lists the loaded modules."""
    names = [name_of(f).removesuffix(".py").removesuffix("/__init__").replace("/", ".") for f in FILES]
    modules = [f"scotd_jax.{name}" for name in names if name not in ("__init__", "main")]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print(*sorted({LAZY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == [], "imported at the top somewhere"


def test_help_is_fast_and_does_not_import_jax():
    """Measures processor time, so that other work on the machine cannot fail the test."""
    code = (
        "import runpy, sys\n"
        "sys.argv = ['main', '--help']\n"
        "try: runpy.run_module('scotd_jax.main', run_name='__main__')\n"
        "except SystemExit as stop: print('exit status', stop.code)\n"
        "print('jax' in sys.modules)"
    )
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    assert "--workdir" in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "False", "--help imports jax"
    assert seconds < 2, f"--help takes {seconds:.1f} s of processor time"
