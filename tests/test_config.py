"""Configs are loaded from mappings, and wrong ones are refused with the path of the key and the probable name."""

import dataclasses
import json
import types

import pytest

from scotd_jax import config as c
from scotd_jax.config import loading
from scotd_jax.errors import InputError

SECRET = "sk-very-secret"


def test_config_survives_conversion_to_config_dict():
    config = c.Config(
        name="x",
        tasks={"w": c.Task(options={"seed": 3})},
        rationales={
            "sampled": c.ModelSource(model=c.Model(student="s"), think="strip"),
            "served": c.ServerSource(server=c.Server(url="http://localhost:8000/v1", model="m")),
            "batched": c.BatchSource(path="results/*.jsonl"),
            "imported": c.FileSource(importer="vllm", options={"subset": True}),
            "gold": c.TaskSource(questions=("w.gold",)),
        },
        students={"s": c.Student(dev_sets=("w.dev",), training=c.Training(steps=7))},
    )
    assert c.from_mapping(c.Config, c.config_dict(config)) == config
    json.dumps(c.plain(config))


def test_every_field_can_be_overridden():
    config_dict = c.config_dict(
        c.Config(students={"s": c.Student()}, rationales={"r": c.ModelSource(), "f": c.FileSource()})
    )
    config_dict.students.s.training.optimizer.learning_rate = 3.0
    config_dict.mesh.fsdp = 2
    config_dict.rationales.r.sampling.n = 5
    config_dict.rationales.f.path = "x"
    config = c.from_mapping(c.Config, config_dict)
    assert config.students["s"].training.optimizer.learning_rate == 3.0
    assert config.mesh.fsdp == 2
    assert config.rationales == {"r": c.ModelSource(sampling=c.Sampling(n=5)), "f": c.FileSource(path="x")}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"student": {}}, "config.student: unknown key; did you mean 'students'"),
        ({"students": {"s": {"training": {"stepz": 1}}}}, r"config.students.s.training.stepz: .*'steps'"),
        ({"seed": "1"}, "config.seed: expected int, found '1'"),
        ({"seed": True}, "config.seed: expected int, found True"),
        ({"seed": 1.5}, "config.seed: expected int, found 1.5"),
        ({"students": {"s": {"dev_sets": "w.dev"}}}, r"config.students.s.dev_sets: expected"),
        ({"students": {"s": {"dev_sets": [1]}}}, r"config.students.s.dev_sets\[0\]: expected str, found 1"),
        ({"corpora": {"a": {"keep": "corect"}}}, "did you mean 'correct'"),
        ({"mesh": 3}, "config.mesh: expected Mesh, found 3"),
        ({"profile": {"last": 2}}, "config.profile.first: expected 1 <= first <= last, found first 0 and last 2"),
        ({"students": {"s": {"training": {"steps": 0}}}}, "config.students.s.training.steps: expected at least 1"),
    ],
)
def test_wrong_values_are_refused_with_the_path_of_the_key(values, message):
    with pytest.raises(InputError, match=message):
        c.from_mapping(c.Config, values)


def test_source_selects_the_class_of_rationales():
    values = {
        "default": {},
        "model": {"source": "model", "think": "keep"},
        "server": {"source": "server", "server": {"model": "m"}},
        "batch": {"source": "batch", "path": "x"},
        "file": {"source": "file", "path": "x"},
        "task": {"source": "task"},
    }
    assert c.from_mapping(c.Config, {"rationales": values}).rationales == {
        "default": c.ModelSource(),
        "model": c.ModelSource(think="keep"),
        "server": c.ServerSource(server=c.Server(model="m")),
        "batch": c.BatchSource(path="x"),
        "file": c.FileSource(path="x"),
        "task": c.TaskSource(),
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "fil"}, "r.source: 'fil' is not one of model, server, batch, file, task; did you mean 'file'"),
        ({"source": "task", "sampling": {}}, "r.sampling: source 'task' has no such key; .*'model' or 'server' or 'b"),
        ({"importer": "vllm"}, "r.importer: source 'model' has no such key; it belongs to source 'file'"),
        ({"source": "file", "pth": "x"}, "r.pth: unknown key; did you mean 'path'"),
        ({"think": "drop"}, "r.think: 'drop' is not one of '', keep, strip, rationale"),
        (3, "config.rationales.r: expected a source of rationales, found 3"),
    ],
)
def test_keys_of_another_source_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        c.from_mapping(c.Config, {"rationales": {"r": values}})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "localhost:8000/v1"}, r"server\.url: expected http"),
        ({"url": f"https://me:{SECRET}@host/v1"}, r"server\.url: expected http"),
        ({"url": f"https://host/v1?key={SECRET}"}, r"server\.url: expected http"),
        ({"key_env": SECRET}, r"server\.key_env: expected the NAME"),
        ({"concurrency": 0}, r"server\.concurrency: expected at least 1, found 0"),
        ({"retries": -1}, r"server\.retries: expected at least 0, found -1"),
        ({"timeout": 0.0}, r"server\.timeout: expected more than 0 seconds"),
        ({"extra_body": {"n": 3}}, r"server\.extra_body\.n: is set by the sample job"),
    ],
)
def test_wrong_server_settings_are_refused_without_repeating_a_key(fields, message):
    good = {"url": "http://localhost:8000/v1", "model": "m"}
    c.from_mapping(c.ServerSource, {"server": good})
    with pytest.raises(InputError, match=message) as caught:
        c.from_mapping(c.ServerSource, {"server": good | fields})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("kind", [c.ModelSource, c.ServerSource, c.BatchSource, c.FileSource])
@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("is x", r"answer_pattern: expected one group, the answer, found 0: 'is x'"),
        ("is (x) or (y)", "answer_pattern: expected one group, the answer, found 2"),
        ("(", "answer_pattern: not a regular expression .*: '[(]'"),
    ],
)
def test_invalid_answer_patterns_are_refused_when_the_config_is_loaded(kind, pattern, message):
    with pytest.raises(InputError, match=rf"{kind.__name__}\.{message}"):
        kind(answer_pattern=pattern)
    with pytest.raises(InputError, match=rf"config\.rationales\.r\.{message}"):
        c.from_mapping(c.Config, {"rationales": {"r": {"source": kind.source, "answer_pattern": pattern}}})
    kind(answer_pattern="is (.+)")


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [(kind, old, new) for kind, names in loading.RENAMED_KEYS.items() for old, new in names.items()],
)
def test_renamed_keys_are_refused_with_the_new_name(kind, old, new):
    fields = {field.name for field in dataclasses.fields(kind)}
    assert new in fields
    assert old not in fields
    with pytest.raises(InputError, match=f"x.{old}: this key is now called '{new}'"):
        c.from_mapping(kind, {old: 1}, "x")


def test_integers_are_accepted_as_floats():
    config = c.from_mapping(c.Optimizer, {"learning_rate": 1})
    assert config.learning_rate == 1.0
    assert isinstance(config.learning_rate, float)


def test_settings_of_a_config_file_have_the_types_of_their_defaults():
    assert c.parse_arg("runlocal,n=5", runlocal=False, n=30, name="a") == types.SimpleNamespace(
        runlocal=True, n=5, name="a"
    )
    with pytest.raises(InputError, match="unknown setting 'm'"):
        c.parse_arg("m=5", n=30)
    with pytest.raises(InputError, match="n expects int, found 'x'"):
        c.parse_arg("n=x", n=30)
    with pytest.raises(InputError, match="runlocal expects bool, found 'yes'"):
        c.parse_arg("runlocal=yes", runlocal=False)
    assert not c.parse_arg("runlocal=false", runlocal=True).runlocal
    with pytest.raises(InputError, match="unknown setting 'said'; it is now called 'responses'"):
        c.parse_arg("said=x", responses="")


def test_every_dataclass_is_frozen_and_has_defaults():
    for value in vars(c).values():
        if dataclasses.is_dataclass(value):
            assert value.__dataclass_params__.frozen
            if value is not c.Claim:  # has to state something
                value()
