"""Validates config values from a config.json or from a user's overrides."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from scotd_jax.errors import InputError

Config = TypeVar("Config")

# Several times the sizes of the largest models.
_WIDTH, _COUNT = 2**20, 2**12
MAX_SIZES = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "ffn_dim", "d_model", "d_ff", "word_embed_proj_dim"), _WIDTH),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_heads", "head_dim", "d_kv"), _COUNT),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "num_decoder_layers"), 1000),
    **dict.fromkeys(("relative_attention_num_buckets", "relative_attention_max_distance"), _WIDTH),
    "vocab_size": 2**24,
    "max_position_embeddings": 2**30,
}


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
    values = checked(kind, found, "config.json: ")
    check_sizes(values, "config.json: ")
    return kind(**values)


def check_sizes(values: Mapping[str, Any], where: str) -> None:
    """Raises InputError if a size is less than 1 or larger than that of any model, before anything is built."""
    for name, largest in MAX_SIZES.items():
        value = values.get(name)
        if isinstance(value, int) and not 1 <= value <= largest:
            raise InputError(f"{where}{name} is {value}; expected 1 to {largest:,}")


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
