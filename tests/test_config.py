"""The door's first duty: a config that is wrong is refused with the key's path and the nearest name."""

import dataclasses
import json
import types

import pytest

from scotd_jax import config as c
from scotd_jax.errors import InputError


def test_round_trip_through_config_dict():
    config = c.Config(
        name="x",
        tasks={"w": c.Task(options={"seed": 3})},
        students={"s": c.Student(dev_sets=("w.dev",), training=c.Training(steps=7))},
    )
    assert c.from_mapping(c.Config, c.config_dict(config)) == config
    json.dumps(c.plain(config))


def test_every_field_can_be_overridden():
    config_dict = c.config_dict(c.Config(students={"s": c.Student()}))
    config_dict.students.s.training.optimizer.learning_rate = 3.0
    config_dict.mesh.fsdp = 2
    config = c.from_mapping(c.Config, config_dict)
    assert config.students["s"].training.optimizer.learning_rate == 3.0
    assert config.mesh.fsdp == 2


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
    ],
)
def test_refusals_name_the_key(values, message):
    with pytest.raises(InputError, match=message):
        c.from_mapping(c.Config, values)


def test_whole_numbers_pass_for_floats():
    config = c.from_mapping(c.Optimizer, {"learning_rate": 1})
    assert config.learning_rate == 1.0
    assert isinstance(config.learning_rate, float)


def test_arguments_of_a_config_file():
    assert c.parse_arg("runlocal,n=5", runlocal=False, n=30, name="a") == types.SimpleNamespace(
        runlocal=True, n=5, name="a"
    )
    with pytest.raises(InputError, match="unknown setting 'm'"):
        c.parse_arg("m=5", n=30)
    with pytest.raises(InputError, match="n expects int, found 'x'"):
        c.parse_arg("n=x", n=30)


def test_every_dataclass_is_frozen_and_documented_by_defaults():
    for value in vars(c).values():
        if dataclasses.is_dataclass(value):
            assert value.__dataclass_params__.frozen
            value()
