"""`grouped_attention` for training on TPUs and NVIDIA GPUs, with kernels that keep the scores on the chip.

XLA writes the scores of every block of keys, float32[b, n, k, g, m, r, t], to memory and reads them again, several
times in the forward and in the backward pass. The kernels (fused_attention_tpu.py, fused_attention_gpu.py) write only
results and read masks without a head axis. No library has such kernels. Splash attention (of jax and tokamax) cannot
join several blocks: its public functions return the logsumexp, but no derivative through it. Flash attention and
cuDNN's attention support masks that compare segment ids or lengths; any other mask must be a bias for every head.

Unsupported calls fall back to XLA: a segment of the whole batch, a batch that the mesh does not divide, a bias that
differs between questions or responses, and what `supports` of a platform's kernels excludes.

XLA cannot shard a kernel, so each device runs it on its own questions and heads (`jax.shard_map`).

Axes besides those of attention.py are defined in kv_block.py.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from scotd_jax.distributed.mesh import batch_shards, mesh_platform
from scotd_jax.distributed.sharding import AnyMesh
from scotd_jax.errors import InputError
from scotd_jax.models.attention import OwnKV, SharedKV, grouped_attention, per_token_mask
from scotd_jax.models.forward_options import Attention, save_for_backward
from scotd_jax.models.kernels import fused_attention_gpu, fused_attention_tpu
from scotd_jax.models.kernels.kv_block import KVBlock

_KERNELS = {"tpu": fused_attention_tpu, "gpu": fused_attention_gpu, "cuda": fused_attention_gpu}


def select_attention(name: str, mesh: AnyMesh) -> Attention | None:
    """Returns the attention that `training.attention` names; None is the default, `grouped_attention`.

    An abstract mesh has no platform, so it gets the default.

    Raises:
      InputError: if the platform of the mesh does not support it (see `check_supported`).
    """
    platform = mesh_platform(mesh)
    check_supported(name, platform)
    return FusedAttention(mesh, platform) if name != "xla" and platform in _KERNELS else None


def check_supported(name: str, platform: str) -> None:
    """Raises InputError if the platform ("" if unknown) does not support the attention `name`."""
    if name == "fused" and platform and platform not in _KERNELS:
        raise InputError(
            f'training.attention: "fused" is for TPUs and GPUs, and the devices of this run are {platform}; '
            'leave it at "auto"'
        )


@dataclasses.dataclass(frozen=True)
class FusedAttention:
    """A replacement for `grouped_attention`.

    Attributes:
      mesh: devices.
      platform: platform whose kernels run.
      interpret: whether the kernels are interpreted, on any platform, slowly, for tests.
    """

    mesh: AnyMesh
    platform: str
    interpret: bool = False

    def __call__(
        self,
        query: Float[Array, "B G R H Dh"],
        segments: Sequence[SharedKV],
        own: Sequence[OwnKV],
        scale: float,
    ) -> Float[Array, "B G R H Dh"]:
        blocks = [KVBlock(k, v, per_token_mask(mask), None) for k, v, mask in segments]
        blocks += [KVBlock(*block) for block in own]
        if not self._supports(query, blocks):
            return grouped_attention(query, segments, own, scale)
        blocks = [block if block.bias is None else block._replace(bias=block.bias[0, 0]) for block in blocks]
        return _attention(self, scale, query, blocks)

    def _supports(self, query: Array, blocks: Sequence[KVBlock]) -> bool:
        B = query.shape[0]
        per_question = all(block.keys.shape[0] == B for block in blocks) and B % batch_shards(self.mesh) == 0
        one_bias = all(block.bias is None or block.bias.shape[:2] == (1, 1) for block in blocks)
        return per_question and one_bias and self.kernels.supports(query, _for_kernels(blocks))

    @property
    def kernels(self) -> Any:
        """The module with the platform's kernels: `supports`, `forward` and `backward`."""
        return _KERNELS[self.platform]

    def per_device(self, function: Callable[..., Any], key_heads: int, *arguments: Any) -> Any:
        """Runs function(*arguments) on each device's questions and heads; results are sharded like arguments."""
        if self.mesh.size == 1:
            return function(*arguments)
        spec = functools.partial(_spec, "tensor" if key_heads % self.mesh.shape["tensor"] == 0 else None)

        def local(*arguments: Any) -> Any:
            # Derivatives of a bias, which all questions share, are sums over the devices.
            return jax.tree.map(lambda x: jax.lax.psum(x, _QUESTIONS) if x.ndim == 3 else x, function(*arguments))

        return jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=jax.tree.map(spec, arguments),
            out_specs=jax.tree.map(spec, jax.eval_shape(function, *arguments)),
            check_vma=False,  # a kernel does not declare over which mesh axes its results vary
        )(*arguments)


_QUESTIONS = ("data", "fsdp")  # mesh axes that split the questions


def _spec(heads: str | None, x: Any) -> PartitionSpec:
    """Returns how an array is split, given the mesh axis that splits heads. The arrays differ in rank and dtype."""
    questions = _QUESTIONS if x.shape[0] > 1 else None
    if x.ndim == 5:  # [B, n, tokens, heads, Dh]
        return PartitionSpec(questions, None, None, heads, None)
    if x.ndim == 3:  # bias [H, R, T]
        return PartitionSpec(heads, None, None)
    if x.dtype == jnp.bool_:  # mask
        return PartitionSpec(questions, None, None, None)
    return PartitionSpec(questions, None, heads, None)  # logsumexp [B, G, H, R]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(
    fused: FusedAttention, scale: float, query: Float[Array, "B G R H Dh"], blocks: list[KVBlock]
) -> Float[Array, "B G R H Dh"]:
    """Keys and values of blocks are [B, n, K, T, Dh], or [B, K, T, Dh] if n is 1."""
    return _attention_forward(fused, scale, query, blocks)[0]


def _attention_forward(fused, scale, query, blocks):
    run = functools.partial(fused.kernels.forward, scale, fused.interpret)
    out, residuals = fused.per_device(run, blocks[0].keys.shape[-3], query, _for_kernels(blocks))
    out, residuals = save_for_backward(out), jax.tree.map(save_for_backward, residuals)
    return out, (query, blocks, out, residuals)


def _attention_backward(fused, scale, saved, d_out):
    query, blocks, out, residuals = saved
    run = functools.partial(fused.kernels.backward, scale, fused.interpret)
    arguments = query, _for_kernels(blocks), out, residuals, d_out
    d_query, d_blocks = fused.per_device(run, blocks[0].keys.shape[-3], *arguments)

    def like_argument(d_block: KVBlock, block: KVBlock) -> KVBlock:
        d_keys, d_values = (x.swapaxes(2, 3).reshape(block.keys.shape) for x in d_block[:2])
        return d_block._replace(keys=d_keys, values=d_values)

    return d_query, [like_argument(*pair) for pair in zip(d_blocks, blocks, strict=True)]


_attention.defvjp(_attention_forward, _attention_backward)


def _for_kernels(blocks: Sequence[KVBlock]) -> list[KVBlock]:
    """Returns blocks with keys and values [B, N, T, K, Dh], as projections compute them; XLA cancels the transposes.

    Called inside `_attention`, whose derivative saves its arguments: otherwise both forms would be saved.
    """

    def tokens_first(keys: Array) -> Array:
        return (keys[:, None] if keys.ndim == 4 else keys).swapaxes(2, 3)

    return [block._replace(keys=tokens_first(block.keys), values=tokens_first(block.values)) for block in blocks]
