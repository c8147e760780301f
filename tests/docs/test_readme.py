"""The README is true where a test can tell: what it refers to exists, and its examples are accepted."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from scotd_jax import config as c
from scotd_jax.jobs.graph import JOBS, chain
from scotd_jax.records import Question, Response, from_json
from scotd_jax.tasks.prompt_formats import check_answer, get_prompt_format

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.M | re.S)


def test_guarantees_name_tests_that_exist():
    named = re.findall(r"`(tests/test_\w+\.py)(?:::(test_\w+))?`", README)
    assert len(named) > 10
    for file, function in named:
        tree = ast.parse((ROOT / file).read_text())
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not function or function in functions, f"{file} has no {function}"


def test_files_and_targets_exist():
    for path in re.findall(r"`((?:scotd_jax|configs|launch|tests)/[\w/]+\.(?:py|sh))`", README):
        assert (ROOT / path).is_file() or path == "configs/zoo.py", path
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    for target in re.findall(r"(?:^|`)make ([a-z]+)", README, flags=re.M):
        assert target in targets, f"make {target}"


def test_contents_link_to_the_headings():
    headings = {h.lower().replace(" ", "-") for h in re.findall(r"^## (.+)$", README, flags=re.M)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", README)) == headings


def test_plain_commands_are_those_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    commands = "\n".join(text for language, text in BLOCKS if not language)
    for argument in (
        "'.[torch]'",
        "'.[test]'",
        "configs/world.py",
        "runs/quickstart",
        "https://download.pytorch.org/whl/cpu",
    ):
        assert argument in makefile, f"{argument} is not in the Makefile"
        assert argument in commands, f"{argument} is not in the README's commands"


def test_the_example_config_is_accepted():
    (source,) = (text for language, text in BLOCKS if language == "python" and "def get_config" in text)
    space = {}
    exec(compile(source, "README.md", "exec"), space)
    config = c.from_mapping(c.Config, space["get_config"]())
    steps = chain(config)
    assert {step.job for step in steps} == set(JOBS)
    assert {step.name for step in steps if step.job == "train"} == {"n30", "labels"}


def test_the_examples_of_a_task_and_a_recipe_are_those_that_are_tested():
    riddles, cascade = ((ROOT / "tests/configs" / name).read_text() for name in ("riddles.py", "cascade.py"))
    (task,) = (text for language, text in BLOCKS if language == "python" and "def question" in text)
    for line in filter(None, task.splitlines()):
        assert line.partition("  #")[0].rstrip(")").rstrip() in riddles, line
    (recipe,) = (text for language, text in BLOCKS if language == "python" and "c.Recipe" in text)
    for line in (line.strip() for line in recipe.splitlines() if "c.Part" in line):
        assert line in cascade, line


def test_the_example_records_are_read():
    question_line, response_line = (text for language, text in BLOCKS if language == "json")
    question = from_json(Question, question_line, "README")
    check_answer(question, "README")
    response = from_json(Response, response_line, "README")
    assert response.question_id == question.id
    assert get_prompt_format("scotd").parse(response.text, question).answer == question.answer


@pytest.mark.parametrize("key", re.findall(r"--config\.([a-z][\w.]+)=", README))
def test_overrides_name_fields_of_the_config(key):
    parts = {"tasks": c.Task, "rationales": c.Rationales, "corpora": c.Corpus, "students": c.Student}
    first, *rest = key.split(".")
    kind = c.Config
    if first in parts:  # what follows is a free name
        kind, rest = parts[first], rest[1:]
    else:
        rest = [first, *rest]
    for name in rest:
        default = next(f.default for f in dataclasses.fields(kind) if f.name == name)
        kind = type(default)
    assert kind in (int, float, str, bool), f"{key} is not a single value"
