"""The functions of engine.py, compiled once for every model, policy and mesh, whatever sampler asks."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from scotd_jax.config import Sampling
from scotd_jax.distributed.sharding import AnyMesh, constrain_cache
from scotd_jax.models.api import Model, Params
from scotd_jax.sampling import decode_loop


class Programs(NamedTuple):
    """The functions of engine.py without what is the same in all calls; `prefill` is the model's own."""

    empty: Callable[..., Any]
    prefill: Callable[..., Any]
    read: Callable[..., Any]
    decode: Callable[..., Any]


def programs(
    model: Model, policy: Sampling, eos_ids: tuple[int, ...], vocab_limit: int, mesh: AnyMesh | None
) -> Programs:
    """Equal arguments give the same programs. Of the policy, what only decides shapes does not count."""
    return _compiled(model, dataclasses.replace(policy, batch_size=1, bucket=1), eos_ids, vocab_limit, mesh)


@functools.lru_cache(maxsize=32)
def _compiled(
    model: Model, policy: Sampling, eos_ids: tuple[int, ...], vocab_limit: int, mesh: AnyMesh | None
) -> Programs:
    """Questions, rows and caches are given away and come back changed."""
    decode = functools.partial(decode_loop.decode, model, policy, eos_ids=eos_ids, vocab_limit=vocab_limit)
    placed = functools.partial(constrain_cache, mesh)  # else it could come back split otherwise than it went in

    def empty(params: Params, B: int, W: int, P: int):
        return placed(decode_loop.empty(model, policy, params, B, W, P))

    return Programs(
        jax.jit(empty, static_argnums=(1, 2, 3)),
        jax.jit(model.prefill),
        jax.jit(lambda *args: placed(decode_loop.read(model, *args)), donate_argnums=2),
        jax.jit(lambda *args: placed(decode(*args)), donate_argnums=(3, 4)),
    )
