"""Validates config values from a config.json or from a user's overrides."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from scotd_jax.errors import InputError

Config = TypeVar("Config")


def read(
    kind: type[Config], values: Mapping[str, Any], required: Mapping[str, Any], names: Mapping[str, str]
) -> Config:
    """Builds a config dataclass from a Hugging Face config.json.

    Keys that are neither required nor fields are ignored, because they do not affect the computation.

    Args:
      kind: the dataclass.
      values: the config.json.
      required: keys of which only one value is supported; a missing key counts as that value.
      names: the config.json keys of fields that have another name there.

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
    """Returns the values, with integers converted for float fields; raises InputError on any other type mismatch."""
    hints = typing.get_type_hints(kind)
    return {name: _convert(hints[name], value, f"{where}{name}") for name, value in values.items()}


def _convert(hint: Any, value: Any, where: str) -> Any:
    allowed = typing.get_args(hint) or (hint,)
    if type(value) in allowed:
        return value
    if float in allowed and type(value) is int:
        return float(value)
    raise InputError(f"{where} should be {getattr(hint, '__name__', hint)}, found {value!r}")
