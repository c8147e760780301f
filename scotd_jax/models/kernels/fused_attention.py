"""`grouped_attention` for training on TPUs: one kernel forward and one backward, and scores that never leave the chip.

XLA writes the scores of every part, float32[b, n, k, g, m, r, t], to the memory of a TPU and reads them again, several
times in either direction. The kernels (fused_kernels.py) write results only. They read the same arrays, and masks
without an axis of heads. Libraries have no such kernel: splash attention, jax's and tokamax's, joins no parts (its
public functions give the logarithm of the sum, but no derivative through it), and flash attention takes a mask that is
no comparison of ids as float32 scores of every head.

Where it does not fit, attention stays with XLA, call by call: with a bias that learns (T5's own tokens; what its
responses see of the prompt is fused), over segments of the whole batch, beyond fused_kernels.KEYS keys, and for a batch
that the mesh does not divide.

XLA cannot split a kernel over devices, so that each runs it on its own questions and heads (`jax.shard_map`).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from scotd_jax.distributed.mesh import batch_shards, mesh_platform
from scotd_jax.distributed.sharding import AnyMesh
from scotd_jax.errors import InputError
from scotd_jax.layout import round_up
from scotd_jax.models.attention import OwnPart, SharedPart, grouped_attention, per_token
from scotd_jax.models.forward_options import Attention, save_for_backward
from scotd_jax.models.kernels import fused_attention_tpu as kernels
from scotd_jax.models.kernels.fused_attention_tpu import Heads, Part


def attention(name: str, mesh: AnyMesh) -> Attention | None:
    """What `training.attention` names; None is what models do anyway. Raises as `check` does."""
    check(name, mesh_platform(mesh))
    return None if name == "xla" else Fused(mesh)


def check(name: str, platform: str) -> None:
    """Raises InputError where it does not run; "" is a platform that is not known."""
    if name != "xla" and platform not in ("tpu", ""):
        raise InputError(
            f'training.attention: "{name}" is for TPUs, and the devices of this run are {platform}; leave it at "xla"'
        )


@dataclasses.dataclass(frozen=True)
class Fused:
    """Called as `grouped_attention` is. `interpret` runs the kernels on any platform, slowly: for tests."""

    mesh: AnyMesh
    interpret: bool = False

    def __call__(
        self,
        query: Float[Array, "B G R H Dh"],
        segments: Sequence[SharedPart],
        own: Sequence[OwnPart],
        scale: float,
    ) -> Float[Array, "B G R H Dh"]:
        B, G, R, H, Dh = query.shape
        parts = [(k[:, None], v[:, None], per_token(mask), None) for k, v, mask in segments]
        parts += own
        if not self._fits(B, parts):
            return grouped_attention(query, segments, own, scale)
        K = parts[0][0].shape[2]
        given = tuple(Part(_side_by_side(k), _side_by_side(v), mask) for k, v, mask, _ in parts)
        query = query.reshape(B, G, R, H * Dh)
        return _attend(self, Heads(K, H // K, Dh), scale, query, given).reshape(B, G, R, H, Dh)

    def _fits(self, B: int, parts: Sequence[OwnPart]) -> bool:
        keys = sum(round_up(k.shape[3], kernels.LANES) for k, *_ in parts)
        plain = all(bias is None and k.shape[0] == B for k, _, _, bias in parts)
        return plain and keys <= kernels.KEYS and B % batch_shards(self.mesh) == 0

    def over_devices(self, function: Any, heads: Heads, *arguments: Any) -> Any:
        """function(heads, *arguments) of every device's questions and heads; the result is split as the arguments."""
        if self.mesh.size == 1:
            return function(heads, *arguments)
        tensor = self.mesh.shape["tensor"]
        split = "tensor" if heads.keys % tensor == 0 else None

        def place(x: Any) -> PartitionSpec:
            questions = ("data", "fsdp") if x.shape[0] > 1 else None
            return PartitionSpec(questions, None, None, None if x.dtype in _MASKS else split)

        mine = dataclasses.replace(heads, keys=heads.keys // tensor) if split else heads
        results = jax.eval_shape(functools.partial(function, heads), *arguments)
        return jax.shard_map(
            functools.partial(function, mine),
            mesh=self.mesh,
            in_specs=jax.tree.map(place, arguments),
            out_specs=jax.tree.map(place, results),
            check_vma=False,  # kernels do not say of their results over which devices they differ
        )(*arguments)


_MASKS = (jnp.bool_, jnp.int8, jnp.int32)


def _side_by_side(keys: Float[Array, "B N K T Dh"]) -> Float[Array, "B N T C"]:
    """As a projection gave them: the other way round is undone."""
    B, N, K, T, Dh = keys.shape
    return keys.swapaxes(2, 3).reshape(B, N, T, K * Dh)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend(fused: Fused, heads: Heads, scale: float, query: Array, parts: tuple[Part, ...]) -> Array:
    """query [B, G, R, H * Dh], parts with masks bool[B or 1, G or 1, R or 1, T] -> like query."""
    return _attend_forward(fused, heads, scale, query, parts)[0]


def _attend_forward(fused, heads, scale, query, parts):
    def run(heads, query, parts):
        return kernels.forward(heads, scale, fused.interpret, query, tuple(map(_whole, parts)))

    return save_for_backward(fused.over_devices(run, heads, query, parts)), (query, parts)


def _attend_backward(fused, heads, scale, saved, d_out):
    def run(heads, query, parts, d_out):
        d_query, *rest = kernels.backward(heads, scale, fused.interpret, query, tuple(map(_whole, parts)), d_out)
        lengths = [part.mask.shape[3] for part in parts for _ in range(2)]
        return d_query, *(x[:, :, :length] for x, length in zip(rest, lengths, strict=True))

    d_query, *rest = fused.over_devices(run, heads, *saved, d_out)
    return d_query, tuple(Part(*both, None) for both in zip(rest[::2], rest[1::2], strict=True))


_attend.defvjp(_attend_forward, _attend_backward)


def _whole(part: Part) -> Part:
    """The part as kernels read it: whole columns of keys. A single row of a mask is small, and easier to read wide."""
    more = -part.mask.shape[3] % kernels.LANES
    keys, values = (jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0))) for x in part[:2])
    mask = jnp.pad(part.mask, ((0, 0), (0, 0), (0, 0), (0, more)))
    return Part(keys, values, mask.astype(jnp.int8 if mask.shape[2] > 1 else jnp.int32))
