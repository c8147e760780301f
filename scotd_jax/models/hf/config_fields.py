"""Validates config values from outside: fields of a config.json, and overrides that a user set."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from scotd_jax.errors import InputError

C = TypeVar("C")


def read(kind: type[C], values: Mapping[str, Any], required: Mapping[str, Any], names: Mapping[str, str]) -> C:
    """Builds a config dataclass from a Hugging Face config.json.

    Keys that are neither required nor fields are ignored: they do not change what a model computes.

    Args:
      kind: the dataclass.
      values: the config.json.
      required: the only supported values of some keys; a missing key counts as that value.
      names: maps fields to keys where they differ.

    Raises:
      InputError: on an unsupported value, or one of the wrong type.
    """
    for key, expected in required.items():
        if values.get(key, expected) != expected:
            raise InputError(f"config.json: {key} is {values[key]!r}; only {expected!r} is supported")
    keys = {f.name: names.get(f.name, f.name) for f in dataclasses.fields(kind)}  # pyrefly: ignore[bad-argument-type]
    found = {field: values[key] for field, key in keys.items() if key in values}
    return kind(**checked(kind, found, "config.json: "))


def checked(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Converts integers to floats where the field is a float; raises InputError on any other type mismatch."""
    hints = typing.get_type_hints(kind)
    return {name: _convert(hints[name], value, f"{where}{name}") for name, value in values.items()}


def _convert(hint: Any, value: Any, where: str) -> Any:
    allowed = typing.get_args(hint) or (hint,)
    if type(value) in allowed:
        return value
    if float in allowed and type(value) is int:
        return float(value)
    raise InputError(f"{where} should be {getattr(hint, '__name__', hint)}, found {value!r}")
