"""The jitted programs of the sampler, cached so that samplers with equal settings share their compilations."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from scotd_jax.config import Sampling
from scotd_jax.distributed.mesh import mesh_platform
from scotd_jax.distributed.sharding import AnyMesh, constrain_cache
from scotd_jax.models.api import LanguageModel, Params
from scotd_jax.models.forward_options import compiler_options
from scotd_jax.sampling import decode_loop


class SamplingPrograms(NamedTuple):
    """Jitted functions of decode_loop.py with model, policy and vocabulary bound.

    Attributes:
      init_state: (params, B, W, P) -> contexts, state, cache, for B groups with W contexts of P tokens each; the three
        sizes are static.
      prefill_few_shot: (params, tokens, mask) -> context of the few-shot examples; this is `model.prefill`.
      prefill: (params, few_shot, contexts, tokens, mask, source) -> contexts; donates `contexts`.
      decode_steps: (weights, few_shot, contexts, state, cache, inputs, base_key, stop_table) -> state, cache, tokens,
        number of steps; donates `state` and `cache`.
    """

    init_state: Callable[..., Any]
    prefill_few_shot: Callable[..., Any]
    prefill: Callable[..., Any]
    decode_steps: Callable[..., Any]


def sampling_programs(
    model: LanguageModel, policy: Sampling, eos_ids: tuple[int, ...], vocab_limit: int, mesh: AnyMesh | None
) -> SamplingPrograms:
    """Returns the programs for these settings; equal settings return the same programs.

    `policy.batch_size` and `policy.bucket` are ignored, because they only determine array shapes.
    """
    return _compiled(model, dataclasses.replace(policy, batch_size=1, bucket=1), eos_ids, vocab_limit, mesh)


@functools.lru_cache(maxsize=32)
def _compiled(
    model: LanguageModel, policy: Sampling, eos_ids: tuple[int, ...], vocab_limit: int, mesh: AnyMesh | None
) -> SamplingPrograms:
    decode = functools.partial(decode_loop.decode_steps, model, policy, eos_ids=eos_ids, vocab_limit=vocab_limit)
    # Without the constraint, XLA may return the state with a different sharding from the one it received.
    constrain = functools.partial(constrain_cache, mesh)

    def init_state(params: Params, B: int, W: int, P: int):
        return constrain(decode_loop.init_state(model, policy, params, B, W, P))

    platform, devices = (jax.default_backend(), 1) if mesh is None else (mesh_platform(mesh), mesh.size)
    jit = functools.partial(jax.jit, compiler_options=compiler_options(platform, devices))
    return SamplingPrograms(
        init_state=jit(init_state, static_argnums=(1, 2, 3)),
        prefill_few_shot=jit(model.prefill),
        prefill=jit(lambda *args: constrain(decode_loop.prefill(model, *args)), donate_argnums=2),
        decode_steps=jit(lambda *args: constrain(decode(*args)), donate_argnums=(3, 4)),
    )
