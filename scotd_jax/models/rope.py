"""Rotary positions (Su et al., arXiv 2104.09864): queries and keys are turned by angles that grow with their position.

Pair i of a head, its entries i and i + Dh/2, turns by `position * frequencies[i]`. Scalings that let a model read
further than it was first trained change the frequencies once and for all, so that a key that was turned and cached
stays right whatever follows it:

    linear  all frequencies divided by `factor`
    llama3  slow pairs divided by `factor`, fast ones kept, between them a ramp over the turns in the first context
    yarn    the same with a ramp over the pairs, and cosines and sines multiplied (Peng et al., arXiv 2309.00071)

"dynamic" and "longrope" are not here: their frequencies depend on the length of the whole text, so that keys would
have to be turned again while a response grows.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scotd_jax.errors import InputError
from scotd_jax.models.hf import config_fields

_NEEDED: Mapping[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
_OPTIONAL = {"yarn": ("attention_factor", "beta_fast", "beta_slow")}


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Fields as in `rope_parameters` of Hugging Face's config.json; None is left out.

    Raises InputError on an unknown type, and on fields that it lacks or does not know.
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
        if self.rope_type not in _NEEDED:
            raise InputError(
                f"config.json: rope_type is {self.rope_type!r}; only default, {', '.join(_NEEDED)} are supported"
            )
        needed, given = _NEEDED[self.rope_type], self.given().keys() - {"rope_type"}
        if missing := [name for name in needed if name not in given]:
            raise InputError(f"config.json: rope_parameters.{missing[0]} is missing; {self.rope_type} needs it")
        if unknown := sorted(given - {*needed, *_OPTIONAL.get(self.rope_type, ())}):
            raise InputError(f"config.json: rope_parameters.{unknown[0]} means nothing to {self.rope_type}")

    def given(self) -> dict[str, Any]:
        """The fields that are not None."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


def from_hf(values: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """theta and scaling of a config.json, in the form of transformers 5 (`rope_parameters`) or of earlier ones
    (`rope_theta`, `rope_scaling`). Raises InputError on what is not supported."""
    where = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    found = values.get(where) or {}
    if not isinstance(found, dict) or any(isinstance(value, dict) for value in found.values()):
        raise InputError(f"config.json: {where} is {found!r}; only one table for all layers is supported")
    found = {name: value for name, value in found.items() if value is not None}
    theta = found.pop("rope_theta", values.get("rope_theta", 10000.0))
    if type(theta) not in (int, float):
        raise InputError(f"config.json: rope_theta should be float, found {theta!r}")
    partial = found.pop("partial_rotary_factor", values.get("partial_rotary_factor"))
    if partial not in (None, 1.0):
        raise InputError(f"config.json: partial_rotary_factor is {partial!r}; only 1.0 is supported")
    older_name = found.pop("type", "default")
    kind = found.pop("rope_type", older_name)
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
    """In both forms, since transformers before 5 would not see the first one and take its own theta instead."""
    fields = {"rope_type": "default"} if scaling is None else scaling.given()
    older = {"rope_theta": theta, "rope_scaling": None if scaling is None else fields}
    return {"rope_parameters": {**fields, "rope_theta": theta}, **older}


def frequencies(width: int, theta: float, scaling: RopeScaling | None) -> tuple[np.ndarray, float]:
    """float32[width / 2], radians per position, and what cosines and sines are multiplied with."""
    base = 1 / np.float32(theta) ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
    if scaling is None:
        return base, 1.0
    if scaling.rope_type == "linear":
        return base / np.float32(scaling.factor), 1.0
    if scaling.rope_type == "llama3":
        turns = scaling.original_max_position_embeddings * base / (2 * math.pi)
        kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        magnitude = 1.0
    else:
        first, last = (_pair_that_turns(turns, width, theta, scaling) for turns in _yarn_turns(scaling))
        first, last = max(math.floor(first), 0), min(math.ceil(last), width - 1)
        kept = 1 - (np.arange(width // 2) - first) / max(last - first, 0.001)
        magnitude = scaling.attention_factor or 0.1 * math.log(max(scaling.factor, 1.0)) + 1.0
    kept = np.clip(kept, 0, 1)
    return (base * kept + base / scaling.factor * (1 - kept)).astype(np.float32), magnitude


def _yarn_turns(scaling: RopeScaling) -> tuple[float, float]:
    """Pairs that turn more often than the first number in the first context are kept, less often than the second
    are divided."""
    return scaling.beta_fast or 32.0, scaling.beta_slow or 1.0


def _pair_that_turns(turns: float, width: int, theta: float, scaling: RopeScaling) -> float:
    """The pair, as a real number, that turns so often in the first context."""
    return width * math.log(scaling.original_max_position_embeddings / (turns * 2 * math.pi)) / (2 * math.log(theta))


def rotation(
    positions: Int[Array, "*lead R"], frequency: np.ndarray, magnitude: float
) -> tuple[Float[Array, "*lead R 1 half"], Float[Array, "*lead R 1 half"]]:
    """Cosines and sines for `rotate`, float32."""
    angles = positions[..., None, None].astype(jnp.float32) * jnp.asarray(frequency).reshape(
        (1,) * (positions.ndim + 1) + frequency.shape
    )
    return jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude


def rotate(x: Float[Array, "B G R N Dh"], cosine: jax.Array, sine: jax.Array) -> Float[Array, "B G R N Dh"]:
    """The N heads of every token, turned."""
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
