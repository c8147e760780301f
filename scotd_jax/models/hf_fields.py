"""Reading a Hugging Face config.json strictly: fields that we know are taken, values that we do not support refused."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from scotd_jax.errors import InputError

C = TypeVar("C")


def read(kind: type[C], values: Mapping[str, Any], required: Mapping[str, Any], names: Mapping[str, str]) -> C:
    """A config dataclass from a config.json.

    `required` are the only values that we support of some keys (a key left out counts as that value); `names` maps
    fields to keys where they differ. Keys that we do not know are ignored: they do not change what a model computes.
    Raises InputError on an unsupported value.
    """
    for key, wanted in required.items():
        if values.get(key, wanted) != wanted:
            raise InputError(f"config.json: {key} is {values[key]!r}; only {wanted!r} is supported")
    keys = {f.name: names.get(f.name, f.name) for f in dataclasses.fields(kind)}
    return kind(**{field: values[key] for field, key in keys.items() if key in values})
