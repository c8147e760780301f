"""`grouped_attention` for training on TPUs: one kernel forward and one backward; scores never leave the core.

XLA writes the scores of every block of keys, float32[b, n, k, g, m, r, t], to HBM and reads them again, several times
in the forward and in the backward pass. The kernels (fused_attention_tpu.py) write only results and read masks without
a head axis. No library has such a kernel. Splash attention (of jax and tokamax) cannot join several blocks: its public
functions return the logsumexp, but no derivative through it. Flash attention supports masks that compare segment ids;
any other mask must be a float32 bias for every head.

Unsupported calls fall back to XLA: a trainable bias (T5's self-attention; its cross-attention is fused), a segment of
the whole batch, more than `fused_attention_tpu.MAX_KEYS` keys, or a batch that the mesh does not divide.

XLA cannot shard a kernel, so each device runs it on its own questions and heads (`jax.shard_map`).

Axes besides those of attention.py are defined in fused_attention_tpu.py.
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
from scotd_jax.models.attention import OwnKV, SharedKV, grouped_attention, per_token_mask
from scotd_jax.models.forward_options import Attention, save_for_backward
from scotd_jax.models.kernels import fused_attention_tpu as kernels
from scotd_jax.models.kernels.fused_attention_tpu import HeadLayout, KVBlock


def select_attention(name: str, mesh: AnyMesh) -> Attention | None:
    """Returns the attention that `training.attention` names; None is the default, `grouped_attention`.

    Raises:
      InputError: if the platform of the mesh does not support it (see `check_supported`).
    """
    check_supported(name, mesh_platform(mesh))
    return None if name == "xla" else FusedAttention(mesh)


def check_supported(name: str, platform: str) -> None:
    """Raises InputError if the platform ("" if unknown) does not support the attention `name`."""
    if name != "xla" and platform not in ("tpu", ""):
        raise InputError(
            f'training.attention: "{name}" is for TPUs, and the devices of this run are {platform}; leave it at "xla"'
        )


@dataclasses.dataclass(frozen=True)
class FusedAttention:
    """A replacement for `grouped_attention`. With `interpret` the kernels run on any platform, slowly, for tests."""

    mesh: AnyMesh
    interpret: bool = False

    def __call__(
        self,
        query: Float[Array, "B G R H Dh"],
        segments: Sequence[SharedKV],
        own: Sequence[OwnKV],
        scale: float,
    ) -> Float[Array, "B G R H Dh"]:
        B, G, R, H, Dh = query.shape
        keys_values: list[OwnKV] = [(k[:, None], v[:, None], per_token_mask(mask), None) for k, v, mask in segments]
        keys_values += own
        if not self._supports(B, keys_values):
            return grouped_attention(query, segments, own, scale)
        K = keys_values[0][0].shape[2]
        blocks = tuple(KVBlock(_heads_last(k), _heads_last(v), mask) for k, v, mask, _ in keys_values)
        query = query.reshape(B, G, R, H * Dh)
        return _attention(self, HeadLayout(K, H // K, Dh), scale, query, blocks).reshape(B, G, R, H, Dh)

    def _supports(self, B: int, keys_values: Sequence[OwnKV]) -> bool:
        keys = sum(round_up(k.shape[3], kernels.LANES) for k, *_ in keys_values)
        per_question = all(bias is None and k.shape[0] == B for k, _, _, bias in keys_values)
        return per_question and keys <= kernels.MAX_KEYS and B % batch_shards(self.mesh) == 0

    def per_device(self, function: Any, heads: HeadLayout, *arguments: Any) -> Any:
        """Runs function(heads, *arguments) on each device's questions and heads; results are sharded like arguments."""
        if self.mesh.size == 1:
            return function(heads, *arguments)
        tensor = self.mesh.shape["tensor"]
        head_axis = "tensor" if heads.keys % tensor == 0 else None

        def spec(x: Any) -> PartitionSpec:
            questions = ("data", "fsdp") if x.shape[0] > 1 else None
            return PartitionSpec(questions, None, None, None if x.dtype in _MASK_DTYPES else head_axis)

        local_heads = dataclasses.replace(heads, keys=heads.keys // tensor) if head_axis else heads
        results = jax.eval_shape(functools.partial(function, heads), *arguments)
        return jax.shard_map(
            functools.partial(function, local_heads),
            mesh=self.mesh,
            in_specs=jax.tree.map(spec, arguments),
            out_specs=jax.tree.map(spec, results),
            check_vma=False,  # a kernel does not declare over which mesh axes its results vary
        )(*arguments)


_MASK_DTYPES = (jnp.bool_, jnp.int8, jnp.int32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attention(
    fused: FusedAttention, heads: HeadLayout, scale: float, query: Array, blocks: tuple[KVBlock, ...]
) -> Array:
    """query and result are [B, G, R, H * Dh], masks of blocks bool[B or 1, G or 1, R or 1, T]."""
    return _attention_forward(fused, heads, scale, query, blocks)[0]


def _attention_forward(fused, heads, scale, query, blocks):
    def run(heads, query, blocks):
        return kernels.forward(heads, scale, fused.interpret, query, tuple(map(_padded, blocks)))

    return save_for_backward(fused.per_device(run, heads, query, blocks)), (query, blocks)


def _attention_backward(fused, heads, scale, residuals, d_out):
    def run(heads, query, blocks, d_out):
        d_query, *rest = kernels.backward(heads, scale, fused.interpret, query, tuple(map(_padded, blocks)), d_out)
        lengths = [block.mask.shape[3] for block in blocks for _ in range(2)]
        return d_query, *(x[:, :, :length] for x, length in zip(rest, lengths, strict=True))

    d_query, *rest = fused.per_device(run, heads, *residuals, d_out)
    gradients = zip(rest[::2], rest[1::2], strict=True)
    return d_query, tuple(KVBlock(keys, values, None) for keys, values in gradients)  # pyrefly: ignore[bad-argument-type]


_attention.defvjp(_attention_forward, _attention_backward)


def _heads_last(keys: Float[Array, "B N K T Dh"]) -> Float[Array, "B N T C"]:
    """Returns the keys with all heads in the last axis, as projections compute them; XLA cancels the transposes."""
    B, N, K, T, Dh = keys.shape
    return keys.swapaxes(2, 3).reshape(B, N, T, K * Dh)


def _padded(block: KVBlock) -> KVBlock:
    """Pads the keys to a multiple of LANES. Masks become int8, or int32 if they have one row: faster to read."""
    padding = -block.mask.shape[3] % kernels.LANES
    keys, values = (jnp.pad(x, ((0, 0), (0, 0), (0, padding), (0, 0))) for x in block[:2])
    mask = jnp.pad(block.mask, ((0, 0), (0, 0), (0, 0), (0, padding)))
    return KVBlock(keys, values, mask.astype(jnp.int8 if mask.shape[2] > 1 else jnp.int32))
