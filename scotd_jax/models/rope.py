"""Rotary positions (Su et al., arXiv 2104.09864): rotate queries and keys by angles proportional to their position.

Pair i of a head, its entries i and i + Dh/2, is rotated by `position * frequencies[i]`. Scalings, which extend a
model's context, change the frequencies once and for all, so cached keys stay valid:

    linear  divides all frequencies by `factor`
    llama3  divides low frequencies by `factor`, keeps high ones, and interpolates linearly in the number of turns that
            a pair makes within the original context
    yarn    likewise, but interpolates linearly in the index of a pair, and multiplies cosines and sines by a magnitude
            (Peng et al., arXiv 2309.00071)

"dynamic" and "longrope" are not supported: their frequencies depend on the length of the sequence, so cached keys would
have to be rotated again as a response grows.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scotd_jax.errors import InputError
from scotd_jax.models.hf import config_fields

Rotation = tuple[Array, Array]  # cosines and sines

_REQUIRED_FIELDS: Mapping[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
_OPTIONAL_FIELDS = {"yarn": ("attention_factor", "beta_fast", "beta_slow")}


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Fields as in `rope_parameters` of Hugging Face's config.json; None: not set.

    Raises:
      InputError: on an unknown type, a missing required field, or a field that the type does not use.
    """

    rope_type: str
    factor: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_position_embeddings: int | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None

    def __post_init__(self):
        if self.rope_type not in _REQUIRED_FIELDS:
            raise InputError(
                f"config.json: rope_type is {self.rope_type!r}; "
                f"only default, {', '.join(_REQUIRED_FIELDS)} are supported"
            )
        required, present = _REQUIRED_FIELDS[self.rope_type], self.set_fields().keys() - {"rope_type"}
        if missing := [name for name in required if name not in present]:
            raise InputError(f"config.json: rope_parameters.{missing[0]} is missing; {self.rope_type} needs it")
        if unknown := sorted(present - {*required, *_OPTIONAL_FIELDS.get(self.rope_type, ())}):
            raise InputError(f"config.json: rope_parameters.{unknown[0]} is no field of rope type {self.rope_type}")

    def set_fields(self) -> dict[str, Any]:
        """Returns the fields that are not None."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


def from_hf(values: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Reads theta and scaling from a config.json.

    transformers 5 writes `rope_parameters`, transformers 4 `rope_theta` and `rope_scaling`.

    Raises:
      InputError: on anything unsupported.
    """
    where = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    found = values.get(where) or {}
    if not isinstance(found, dict) or any(isinstance(value, dict) for value in found.values()):
        raise InputError(f"config.json: {where} is {found!r}; only one setting for all layers is supported")
    found = {name: value for name, value in found.items() if value is not None}
    theta = found.pop("rope_theta", values.get("rope_theta", 10000.0))
    if type(theta) not in (int, float):
        raise InputError(f"config.json: rope_theta should be float, found {theta!r}")
    partial = found.pop("partial_rotary_factor", values.get("partial_rotary_factor"))
    if partial not in (None, 1.0):
        raise InputError(f"config.json: partial_rotary_factor is {partial!r}; only 1.0 is supported")
    legacy_type = found.pop("type", "default")
    kind = found.pop("rope_type", legacy_type)
    if kind == "default":
        return float(theta), None
    if kind in ("llama3", "yarn") and "max_position_embeddings" in values:
        found.setdefault("original_max_position_embeddings", values["max_position_embeddings"])
    known = {field.name for field in dataclasses.fields(RopeScaling)}
    if unknown := sorted(found.keys() - known):
        raise InputError(f"config.json: {where}.{unknown[0]} is {found[unknown[0]]!r}; it is not supported")
    return float(theta), RopeScaling(
        **config_fields.checked(RopeScaling, {"rope_type": kind, **found}, f"config.json: {where}.")
    )


def to_hf(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """Returns the fields of config.json in both forms: transformers 4 ignores `rope_parameters`."""
    fields = {"rope_type": "default"} if scaling is None else scaling.set_fields()
    legacy = {"rope_theta": theta, "rope_scaling": None if scaling is None else fields}
    return {"rope_parameters": {**fields, "rope_theta": theta}, **legacy}


def frequencies(width: int, theta: float, scaling: RopeScaling | None) -> tuple[np.ndarray, float]:
    """Returns the frequencies, float32[width / 2] in radians per position, and the magnitude for `rotation`."""
    base = 1 / np.float32(theta) ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
    if scaling is None:
        return base, 1.0
    factor = _required(scaling.factor)
    if scaling.rope_type == "linear":
        return base / np.float32(factor), 1.0
    if scaling.rope_type == "llama3":
        turns = _required(scaling.original_max_position_embeddings) * base / (2 * math.pi)
        low, high = _required(scaling.low_freq_factor), _required(scaling.high_freq_factor)
        unscaled = (turns - low) / (high - low)
        magnitude = 1.0
    else:
        first, last = (_pair_with_turns(turns, width, theta, scaling) for turns in _yarn_turns(scaling))
        first, last = max(math.floor(first), 0), min(math.ceil(last), width - 1)
        unscaled = 1 - (np.arange(width // 2) - first) / max(last - first, 0.001)
        magnitude = scaling.attention_factor or 0.1 * math.log(max(factor, 1.0)) + 1.0
    unscaled = np.clip(unscaled, 0, 1)  # weight of the original frequency in the interpolation
    return (base * unscaled + base / factor * (1 - unscaled)).astype(np.float32), magnitude


def _required(value: int | float | None) -> int | float:
    """Returns the value of a field whose presence `RopeScaling` has checked."""
    assert value is not None
    return value


def _yarn_turns(scaling: RopeScaling) -> tuple[float, float]:
    """Returns YaRN's bounds (beta_fast, beta_slow) on the number of turns of a pair within the original context.

    Pairs with more turns than beta_fast keep their frequency; pairs with fewer than beta_slow are fully scaled.
    """
    return scaling.beta_fast or 32.0, scaling.beta_slow or 1.0


def _pair_with_turns(turns: float, width: int, theta: float, scaling: RopeScaling) -> float:
    """Returns the (fractional) index of the pair that makes this number of turns within the original context."""
    positions = _required(scaling.original_max_position_embeddings)
    return width * math.log(positions / (turns * 2 * math.pi)) / (2 * math.log(theta))


def rotation(positions: Int[Array, "*lead R"], frequency: np.ndarray, magnitude: float) -> Rotation:
    """Returns cosines and sines times `magnitude` for `rotate`, float32[*lead, R, 1, Dh / 2]."""
    angles = positions[..., None, None].astype(jnp.float32) * jnp.asarray(frequency).reshape(
        (1,) * (positions.ndim + 1) + frequency.shape
    )
    return jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude


def identity_rotation(positions: Int[Array, "*lead R"], width: int) -> Rotation:
    """Returns cosines and sines for `rotate` that leave heads of this width unchanged."""
    shape = (*positions.shape, 1, width // 2)
    return jnp.ones(shape, jnp.float32), jnp.zeros(shape, jnp.float32)


def rotate(x: Float[Array, "B G R N Dh"], cosine: Array, sine: Array) -> Float[Array, "B G R N Dh"]:
    """Returns the N heads of every token, rotated."""
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
