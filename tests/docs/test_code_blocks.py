"""Every code block of the documentation works: Python runs, commands parse and their configs load, records are read."""

import ast
import importlib
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from scotd_jax import config as c
from scotd_jax.config.packaged import resolve_config
from scotd_jax.errors import InputError
from scotd_jax.jobs import graph
from scotd_jax.records import Question, Response, from_json
from scotd_jax.tasks.prompt_formats import check_answer, get_prompt_format
from tests.docs.pages import BLOCKS, PAGES, ROOT, Block, blocks_of, commands_of

LANGUAGES = {"python", "bash", "json", "text", "bibtex", "diff"}
MAKEFILE = (ROOT / "Makefile").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def of(*languages: str) -> list[Block]:
    """Returns the code blocks in these languages."""
    return [block for block in BLOCKS if block.language in languages]


def test_every_block_names_its_language():
    assert {block.language for block in BLOCKS} <= LANGUAGES


WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks_of(page))]


# The warnings are about the temporary folder of `make_batches`, which is removed together with its batches.
@pytest.mark.slow
@pytest.mark.usefixtures("fast_compilation")
@pytest.mark.filterwarnings("ignore:Implicitly cleaning up", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("page", [p for p in WITH_PYTHON if p.name != "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    """The blocks of a page share one namespace, as a reader pastes them one after the other.

    Those of CONTRIBUTING.md are run by test_how_tos.py.
    """
    monkeypatch.chdir(tmp_path)
    space: dict = {"__name__": "docs"}
    for block in blocks_of(page):
        if block.language != "python":
            continue
        if block.compile_only:
            imports_resolve(block.text)
            continue
        exec(compile(block.text, str(block), "exec"), space)


def imports_resolve(source: str) -> None:
    """Asserts that every NAME in `from scotd_jax... import NAME` of the source exists."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("scotd_jax"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


def zoo_config() -> str:
    """The complete config that the reader of the guide saves as configs/zoo.py."""
    (source,) = (b.text for b in blocks_of(ROOT / "docs/guides/tasks.md") if "def get_config" in b.text)
    return source


def test_complete_config_is_accepted():
    space: dict = {}
    exec(compile(zoo_config(), "zoo.py", "exec"), space)
    config = c.from_mapping(c.Config, space["get_config"]())
    steps = graph.chain(config)
    assert {step.job for step in steps} == set(graph.JOBS) - {"score"}, "no corpus selects by scores of a student"
    assert {step.name for step in steps if step.job == "train"} == {"n30", "labels"}


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_json_blocks_are_records(block):
    for line in filter(None, block.text.splitlines()):
        row = json.loads(line)
        if "question_id" in row:
            assert from_json(Response, line, str(block)).text
        elif "text" in row and "task" in row:
            check_answer(from_json(Question, line, str(block)), str(block))


def test_example_response_answers_the_example_question():
    lines = [line for block in of("json") for line in block.text.splitlines()]
    question = next(from_json(Question, line, "docs") for line in lines if '"task"' in line)
    response = next(from_json(Response, line, "docs") for line in lines if '"question_id"' in line)
    assert response.question_id == question.id
    assert get_prompt_format("scotd").parse(response.text, question).answer == question.answer


COMMANDS = [(block, words) for block in of("bash") for words in commands_of(block)]


@pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections loads config files with it
@pytest.mark.parametrize(("block", "words"), COMMANDS, ids=lambda v: str(v) if isinstance(v, Block) else v[0])
def test_commands_are_valid(block, words, tmp_path):
    program = Path(words[0]).name
    if program == "scotd-jax" or "scotd_jax.main" in words:
        run_is_accepted(words, tmp_path)
    elif program == "make":
        for target in words[1:]:
            assert re.search(rf"^{target}:", MAKEFILE, flags=re.M) or "=" in target, f"make {target}"
    elif program in ("pip", "pip3"):
        installation_is_declared(words)
    elif program == "docker":
        docker_command_is_accepted(words, tmp_path)
    elif words[0].startswith("launch/"):
        done = subprocess.run(
            [words[0], "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    elif "-m" in words:  # python -m venv, python -m pytest -n auto, python -m benchmarks.corpus
        assert importlib.util.find_spec(words[words.index("-m") + 1]) is not None, words
    else:
        assert program in ("ruff", "pyrefly", "pre-commit"), f"{block}: no check for the command {' '.join(words)!r}"


def installation_is_declared(words: list[str]) -> None:
    """Asserts that `pip install` names extras and files of this repository."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    for word in words:
        for extra in re.findall(r"^\.\[([\w,]+)\]$", word):
            assert set(extra.split(",")) <= set(extras), word
        if word.endswith(".txt"):
            assert (ROOT / word).is_file()
        if word.startswith("https://"):
            assert word in MAKEFILE


def docker_command_is_accepted(words: list[str], folder: Path) -> None:
    """Asserts that an image is built from a file of this repository with its arguments, or run with valid flags."""
    if words[1] == "build":
        file = (ROOT / words[words.index("-f") + 1]).read_text()
        for argument in (words[i + 1] for i, word in enumerate(words) if word == "--build-arg"):
            assert re.search(rf"^ARG {argument.partition('=')[0]}=", file, flags=re.M), argument
    else:
        (image,) = [i for i, word in enumerate(words) if word.startswith("scotd-jax:")]
        run_is_accepted(words[image:], folder)


def run_is_accepted(words: list[str], folder: Path) -> None:
    """Asserts that the flags of a run exist, its config loads with its overrides, and its references resolve."""
    arguments = [word for word in words if word.startswith("--")]
    known = main_flags()
    for argument in arguments:
        name = argument.removeprefix("--").partition("=")[0].partition(".")[0]
        assert name in known, f"{argument} is no flag of scotd_jax.main"
    if not any(argument.startswith("--config=") for argument in arguments):
        return
    (folder / "zoo.py").write_text(zoo_config())
    relevant = [a.replace("configs/zoo.py", str(folder / "zoo.py")) for a in arguments if a.startswith("--config")]
    here = Path.cwd()
    os.chdir(ROOT)
    try:
        command = [words[0], *map(with_path, relevant)]
        values = flags.FlagValues()
        option = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=command)
        values(command)
        config = c.from_mapping(c.Config, option.value)
    finally:
        os.chdir(here)
    graph.chain(config)


def with_path(argument: str) -> str:
    """Returns a flag with the path of a packaged config in place of its name, as --config resolves it."""
    flag, _, value = argument.partition("=")
    return f"{flag}={resolve_config(value)}" if flag == "--config" else argument


def main_flags() -> set[str]:
    """The flags that scotd_jax.main defines, from its source: importing it would register them with this process."""
    tree = ast.parse((ROOT / "scotd_jax" / "main.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {
        node.args[0].value
        for node in calls
        if ast.unparse(node.func).rpartition(".")[2].startswith("DEFINE_") and isinstance(node.args[0], ast.Constant)
    }


def test_quickstart_commands_are_those_of_the_makefile():
    text = "\n".join(b.text for b in blocks_of(ROOT / "docs/quickstart.md") if b.language == "bash")
    for argument in (
        "'.[torch]'",
        "'.[test]'",
        "configs/world.py",
        "runs/quickstart",
        "https://download.pytorch.org/whl/cpu",
    ):
        assert argument in MAKEFILE, f"{argument} is not in the Makefile"
        assert argument in text, f"{argument} is not in the quickstart"


@pytest.mark.filterwarnings("ignore:the load_module")
def test_bad_override_is_refused(tmp_path):
    with pytest.raises((AttributeError, InputError)):
        run_is_accepted(["scotd-jax", "--config=configs/world.py", "--config.trainning=1"], tmp_path)
