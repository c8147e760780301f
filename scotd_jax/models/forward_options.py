"""What is done to a model while it is trained, and not when it is asked: rematerialisation, dropout, placing, rolling,
and another form of attention.

A `Regime` is handed to `prefill` and `extend`; without one (`PLAIN`) both compute what they always compute. Models run
every layer through `Regime.run`, and a layer passes what it adds to the residual stream through the `drop` it is given.
It attends by the `attend` it is given, if any (fused.py).

*Rematerialisation* computes the inside of a layer again in the backward pass instead of keeping it. "full" keeps a
layer's inputs only; "dots" also keeps what passes through `keep` in the code: the results of the products with weights,
the queries, keys and values in the dtype in which they are used, and what attention's own derivative needs. So "dots"
computes no product twice, and neither of them keeps anything that grows with the square of the tokens.

*Dropout* (Srivastava et al. 2014) stands where T5 (arXiv 1910.10683, section 3.1.2) and OPT (arXiv 2205.01068, section
2.2) have it in common: on what attention and MLP add to the residual stream. T5's embeddings are dropped as well, OPT's
and Llama's are not, and neither are attention weights, which the grouped attention never holds as a whole. A mask is
named by its key, by the place in a layer and by the layer's number, and drawn over the global shape: it is the same on
every mesh, and whether the layers are rolled or not.
The prompt is computed once per question, so all its responses see the same dropped prompt; each draws its own masks for
its own tokens.

*Placing*: where parameters are split over the devices that also split the batch (fsdp), the residual stream is told to
stay split by its questions. Left alone, the compiler splits it as the parameters are, every device then computes for
the whole batch, and activations travel in place of parameters.

*Rolling* runs the layers of a stack in one loop (rolling.py).
"""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int

Remat = Literal["none", "dots", "full"]
Drop = Callable[[Array, str], Array]  # drop(x, place in the layer) -> like x
Attend = Callable[..., Array]  # as `grouped_attention` of attention.py

_KEPT = "kept"


def keep(x: Array) -> Array:
    """x, marked as one of the values that remat "dots" keeps."""
    return checkpoint_name(x, _KEPT)


def nothing_dropped(x: Array, place: str) -> Array:
    """The `drop` of a layer that is not trained."""
    return x


@dataclasses.dataclass(frozen=True)
class Regime:
    """`rate` is the share of entries that is dropped, in [0, 1); `key` names the masks and is needed where rate > 0.
    `place` is where arrays [B, ...] are held, and `places`, a tree like that of the parameters, where each of those
    lies; None leaves it to the compiler. `attend` None is `grouped_attention`."""

    remat: Remat = "none"
    rate: float = 0.0
    key: jax.Array | None = None
    place: NamedSharding | None = None
    rolled: bool = False
    places: Any = None
    attend: Attend | None = None

    def held(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """x, which begins with the questions of a batch, in its place."""
        return x if self.place is None else jax.lax.with_sharding_constraint(x, self.place)

    def drop(self, x: Float[Array, "*shape"], name: str, layer: int | Int[Array, ""] = 0) -> Float[Array, "*shape"]:
        """x with a share `rate` of its entries zero and the rest larger by 1 / (1 - rate)."""
        if self.rate == 0:
            return x
        # A name, not a count: no other place draws other masks because one is added or left out. The layer is a number
        # because in a loop that is all that is known of it.
        key = jax.random.fold_in(jax.random.fold_in(self.key, zlib.crc32(name.encode())), layer)
        stays = jax.random.bernoulli(key, 1 - self.rate, x.shape)
        return jnp.where(stays, x / (1 - self.rate), 0.0)

    def run(self, name: str, number: int | Int[Array, ""], layer: Callable[..., Any], *args: Any) -> Any:
        """layer(x, *args, drop=...), its inside kept or computed again as `remat` says. `name` and `number` name its
        masks."""
        attend = {} if self.attend is None else {"attend": self.attend}

        def drop(x: Array, place: str) -> Array:
            return self.held(self.drop(x, f"{name}/{place}", number))

        def inside(x: Array, *args: Any) -> Any:
            return layer(self.held(x), *args, drop=drop, **attend)

        if self.remat == "none":
            return inside(*args)
        policies = jax.checkpoint_policies
        policy = policies.nothing_saveable if self.remat == "full" else policies.save_only_these_names(_KEPT)
        # In a loop, where the number is traced, forward and backward pass have nothing in common that could be merged.
        return jax.checkpoint(inside, policy=policy, prevent_cse=isinstance(number, int))(*args)


PLAIN = Regime()


def together(*arrays: Any) -> tuple[Any, ...]:
    """The same arrays, or trees of them, of which none can be used before all are there.

    For backward passes on CPUs. There XLA starts whatever can be started: before the forward pass has ended it
    transposes, and computes again, what only the backward pass reads, and puts the gradients of weights off to its
    end; a step of OPT-125M held 2.4 GiB instead of 1.7. Elsewhere the compiler knows better, and this is nothing.
    """
    return jax.lax.platform_dependent(
        *arrays, cpu=lambda *all: jax.lax.optimization_barrier(all), default=lambda *all: all
    )


def compiler_options(platform: str) -> dict[str, str] | None:
    """Of a compiled function that trains. XLA for CPUs drops the barriers of `together` and of rematerialisation, after
    which it merges what is computed twice and keeps everything, unless it is told not to: a toy of 12 layers took
    37 MiB with rematerialisation and without, 15 like this."""
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if platform == "cpu" else None
