"""The configuration reference describes every field of every config class."""

import dataclasses
import importlib.util

import pytest

from scotd_jax import config
from tests.docs.pages import DOCS


def load_reader():
    """Returns the module docs/_ext/schema_source.py, which the build of the documentation uses."""
    spec = importlib.util.spec_from_file_location("schema_source", DOCS / "_ext" / "schema_source.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CLASSES = load_reader().read_schema()


def test_reference_has_every_config_class():
    defined = {value.__name__ for value in vars(config).values() if dataclasses.is_dataclass(value)}
    assert {cls.name for cls in CLASSES} == defined


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.name)
def test_every_field_has_a_description(cls):
    assert cls.description, f"{cls.name} has no docstring"
    missing = [field.name for field in cls.fields if not field.description]
    assert not missing, f"{cls.name}: no comment describes {', '.join(missing)}"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.name)
def test_reference_has_every_field(cls):
    fields = dataclasses.fields(getattr(config, cls.name))
    assert [field.name for field in cls.fields] == [field.name for field in fields]
