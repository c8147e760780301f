"""Forward-pass options that apply in training only: remat, dropout, sharding constraints, scan over layers, attention.

`prefill` and `extend` take a `ForwardOptions`; the default computes a plain forward pass. Models call every layer
through `ForwardOptions.run_layer`, which passes the functions for dropout and attention to the layer.

*Rematerialization* recomputes the inside of a layer in the backward pass instead of saving it. "full" saves only the
inputs of a layer. "dots" also saves every array that passes through `save_for_backward`: the results of matmuls with
weights, the queries, keys and values in the dtype in which they are used, and the residuals of attention. So "dots"
recomputes no matmul, and neither mode saves anything that grows with the square of the sequence length.

*Dropout* (Srivastava et al. 2014) applies where T5 (arXiv 1910.10683, section 3.1.2) and OPT (arXiv 2205.01068, section
2.2) agree: to the outputs of attention and MLP before they join the residual stream. It also applies to T5's
embeddings, but not to those of OPT and Llama, and never to attention weights, which grouped attention does not
materialize. A mask depends on its key, on the dropout site and on the layer number, and is drawn over the global shape:
it is the same on every mesh, with and without scan over layers. The prompt is encoded once per question, so all its
responses share the prompt's masks; each response draws masks of its own for its own tokens.

*Sharding constraints*: where the axis that shards the batch also shards parameters (fsdp), the residual stream is
constrained to stay sharded by questions. Otherwise XLA shards it like the parameters; then every device computes the
whole batch, and activations are communicated instead of parameters.

*Scan over layers* runs the layers of a stack in one `jax.lax.scan` (layer_scan.py).
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

from scotd_jax.distributed.gpu_settings import gpu_compiler_options

Remat = Literal["none", "dots", "full"]
Dropout = Callable[[Array, str], Array]  # dropout(x, site within the layer) -> like x
Attention = Callable[..., Array]  # called as `grouped_attention` of attention.py

_SAVED = "saved"


def save_for_backward(x: Array) -> Array:
    """Marks x as one of the arrays that remat "dots" saves."""
    return checkpoint_name(x, _SAVED)


def no_dropout(x: Array, site: str) -> Array:
    """Returns x. The default for a layer's argument `dropout`."""
    return x


@dataclasses.dataclass(frozen=True)
class ForwardOptions:
    """How `prefill` and `extend` compute. The default is a plain forward pass, as in sampling.

    Attributes:
      remat: what the backward pass recomputes.
      dropout: the fraction of entries to drop, in [0, 1).
      dropout_key: the key of all dropout masks; required if `dropout` is positive.
      scan_layers: whether to scan over layers instead of unrolling them; not supported with a cache.
      activation_sharding: constraint on activations [B, ...]; None leaves them to XLA.
      param_shardings: a tree like the parameters, needed to shard stacked layers; None leaves them to XLA.
      attention: replaces `grouped_attention`.
    """

    remat: Remat = "none"
    dropout: float = 0.0
    dropout_key: jax.Array | None = None
    scan_layers: bool = False
    activation_sharding: NamedSharding | None = None
    param_shardings: Any = None
    attention: Attention | None = None

    def constrain(self, x: Float[Array, "B *shape"]) -> Float[Array, "B *shape"]:
        """Applies `activation_sharding` to x."""
        return x if self.activation_sharding is None else jax.lax.with_sharding_constraint(x, self.activation_sharding)

    def apply_dropout(
        self, x: Float[Array, "*shape"], site: str, layer: int | Int[Array, ""] = 0
    ) -> Float[Array, "*shape"]:
        """Sets the fraction `dropout` of the entries to zero and divides the others by 1 - `dropout`."""
        if self.dropout == 0:
            return x
        assert self.dropout_key is not None, "dropout needs a key"
        # The site is named rather than counted, so that adding or removing one changes no other mask. The layer is a
        # number because a scan can trace a number but not a name.
        key = jax.random.fold_in(jax.random.fold_in(self.dropout_key, zlib.crc32(site.encode())), layer)
        keep = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
        return jnp.where(keep, x / (1 - self.dropout), 0.0)

    def run_layer(self, stack: str, number: int | Int[Array, ""], layer: Callable[..., Any], *args: Any) -> Any:
        """Returns layer(*args, dropout=..., attention=...), rematerialized according to `remat`.

        Args:
          stack: the name of the stack of layers; together with `number` it selects the dropout masks.
          number: the layer's number, traced inside a scan.
          layer: the layer.
          *args: the residual stream, then the other arguments of the layer.
        """
        scope = f"{stack}_layer_{number if isinstance(number, int) else 'all'}"  # in profiles

        def dropout(x: Array, site: str) -> Array:
            return self.constrain(self.apply_dropout(x, f"{stack}/{site}", number))

        functions: dict[str, Callable[..., Array]] = {"dropout": dropout}
        if self.attention is not None:
            functions["attention"] = self.attention

        def call(x: Array, *args: Any) -> Any:
            with jax.named_scope(scope):
                return layer(self.constrain(x), *args, **functions)

        if self.remat == "none":
            return call(*args)
        policies = jax.checkpoint_policies
        policy = policies.nothing_saveable if self.remat == "full" else policies.save_only_these_names(_SAVED)
        # Inside a scan (the number is traced) forward and backward pass share no computation that XLA could merge.
        return jax.checkpoint(call, policy=policy, prevent_cse=isinstance(number, int))(*args)


def optimization_barrier(*arrays: Any) -> tuple[Any, ...]:
    """Returns the arrays (or trees of them) such that, on CPUs, none can be used before all are computed.

    Used in backward passes. XLA for CPUs starts every operation as soon as its inputs exist. So operations of the
    backward pass (transposes, recomputation) run during the forward pass, and their results occupy memory until the
    backward pass reads them; the gradients of weights are deferred to the end. A step of OPT-125M took 2.4 GiB without
    barriers and 1.7 GiB with them. On other platforms XLA schedules better, so the barrier does nothing there.
    """
    return jax.lax.platform_dependent(
        *arrays, cpu=lambda *all: jax.lax.optimization_barrier(all), default=lambda *all: all
    )


def compiler_options(platform: str, devices: int = 1) -> dict[str, Any] | None:
    """Returns the compiler options of programs on a number of devices, or None for XLA's defaults.

    XLA for CPUs removes the barriers of `optimization_barrier` and of rematerialization by default; then it merges
    duplicate computations and saves everything: a toy model of 12 layers took 37 MiB with and without
    rematerialization. With these options it took 15 MiB. The options for GPUs are in distributed/gpu_settings.py.
    """
    if platform == "gpu":
        return gpu_compiler_options(devices) or None
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if platform == "cpu" else None
