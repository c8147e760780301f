"""Building blocks of all models: embedding, norms, activations, dense layers, attention projections, logits.

Numerics: the inputs of a matmul are cast to the compute dtype and the sum is accumulated in float32, in the forward and
in the backward pass. Norms and the residual stream stay float32: in T5 the residual stream grows beyond the precision
of bfloat16. Arrays between two matmuls (queries, keys, values, the hidden layer of an MLP) have the compute dtype.

Matmuls with weights go through matmul.py. Norms and activations define their own derivatives to save less for the
backward pass: JAX saves three arrays for a LayerNorm and two for a ReLU, although one is enough for each.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from scotd_jax.models.forward_options import optimization_barrier, save_for_backward
from scotd_jax.models.matmul import linear, linears


def logits(hidden: Float[Array, "*lead E"], unembedding: Float[Array, "V E"], dtype: str) -> Float[Array, "*lead V"]:
    """Returns hidden @ unembedding.T in float32."""
    return linear(hidden, unembedding, dtype=dtype, out_in=True)


def embed(table: Float[Array, "V D"], tokens: Int[Array, "*shape"]) -> Float[Array, "*shape D"]:
    """Returns the rows of the table. Out-of-range indices are clipped, so that padding never produces NaN."""
    return table.at[tokens].get(mode="clip")


class TokenEmbedding(nnx.Module):
    """Token embedding table."""

    def __init__(self, vocab_size: int, width: int, *, std: float, rngs: nnx.Rngs):
        self.tokens = normal_param(rngs, (vocab_size, width), std)


class Unembedding(nnx.Module):
    """An output matrix that is not tied to the token embedding."""

    def __init__(self, vocab_size: int, width: int, *, std: float, rngs: nnx.Rngs):
        self.kernel = normal_param(rngs, (vocab_size, width), std)


class Dense(nnx.Module):
    """x @ kernel + bias, computed in `dtype` and rounded to `out_dtype`."""

    def __init__(
        self, fan_in: int, fan_out: int, *, std: float, bias: bool, dtype: str, rngs, out_dtype: str = "float32"
    ):
        self.kernel = normal_param(rngs, (fan_in, fan_out), std)
        self.bias = nnx.Param(jnp.zeros(fan_out, jnp.float32)) if bias else None
        self.dtype, self.out_dtype = dtype, out_dtype

    def __call__(self, x: Float[Array, "*lead I"]) -> Float[Array, "*lead O"]:
        return parallel_dense((self,), x)[0]


def parallel_dense(layers: Sequence[Dense], x: Float[Array, "*lead I"]) -> list[Array]:
    """Applies several dense layers to the same x, which is saved only once for all their derivatives."""
    kernels, dtypes = [layer.kernel[...] for layer in layers], [layer.out_dtype for layer in layers]
    biases = [None if layer.bias is None else layer.bias[...] for layer in layers]
    outs = linears(x, kernels, biases, dtype=layers[0].dtype, out_dtypes=dtypes)
    return [save_for_backward(out) for out in outs]


class LayerNorm(nnx.Module):
    """Layer normalization with scale and bias."""

    def __init__(self, width: int, *, eps: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.eps = eps

    def __call__(self, x: Float[Array, "*lead D"]) -> Float[Array, "*lead D"]:
        return layer_norm(x, self.scale[...], self.bias[...], self.eps)


class RMSNorm(nnx.Module):
    """Root-mean-square normalization with scale. The parameter is the scale minus `offset`."""

    def __init__(self, width: int, *, eps: float, offset: float = 0.0):
        self.scale = nnx.Param(jnp.full(width, 1 - offset, jnp.float32))
        self.eps, self.offset = eps, offset

    def __call__(self, x: Float[Array, "*lead D"]) -> Float[Array, "*lead D"]:
        scale = self.scale[...] if self.offset == 0 else self.scale[...] + self.offset
        return rms_norm(x, scale, self.eps)


class AttentionProjections(nnx.Module):
    """Query, key, value and output projections: H heads of width Dh; in T5 H * Dh may differ from D."""

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        *,
        stds: Mapping[str, float],
        bias: bool,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        inner = heads * head_width
        shared = {"bias": bias, "dtype": dtype, "rngs": rngs}
        self.q, self.k, self.v = (Dense(width, inner, std=stds[n], out_dtype=dtype, **shared) for n in "qkv")
        self.o = Dense(inner, width, std=stds["o"], **shared)
        self.heads = heads

    def query(self, x: Float[Array, "*lead R D"]) -> Float[Array, "*lead R H Dh"]:
        return self._split_heads(self.q(x))

    def key_value(self, x: Float[Array, "*lead R D"]) -> tuple[Array, Array]:
        """Returns keys and values, [*lead, H, R, Dh] each: heads before tokens, see attention.py."""
        key, value = (self._split_heads(out).swapaxes(-3, -2) for out in parallel_dense((self.k, self.v), x))
        return key, value

    def query_key_value(self, x: Float[Array, "*lead R D"]) -> tuple[Array, Array, Array]:
        """Returns queries [*lead, R, H, Dh], keys and values [*lead, H, R, Dh] of the same tokens."""
        query, key, value = map(self._split_heads, parallel_dense((self.q, self.k, self.v), x))
        return query, key.swapaxes(-3, -2), value.swapaxes(-3, -2)

    def output(self, x: Float[Array, "*lead H Dh"]) -> Float[Array, "*lead D"]:
        return self.o(x.reshape(*x.shape[:-2], -1))

    def _split_heads(self, x: Float[Array, "*lead HDh"]) -> Float[Array, "*lead H Dh"]:
        return x.reshape(*x.shape[:-1], self.heads, -1)


def normal_param(rngs: nnx.Rngs, shape: tuple[int, ...], std: float) -> nnx.Param:
    """A float32 parameter drawn from a normal distribution."""
    return nnx.Param(std * jax.random.normal(rngs(), shape, jnp.float32))


def layer_norm(x: Float[Array, "*lead D"], scale: Float[Array, " D"], bias: Float[Array, " D"], eps: float) -> Array:
    """Layer normalization over the last axis in float32, with population variance."""
    x = _normalize(x.astype(jnp.float32), eps, True)
    return x * _expand_like(scale, x) + _expand_like(bias, x)


def rms_norm(x: Float[Array, "*lead D"], scale: Float[Array, " D"], eps: float) -> Array:
    """Root-mean-square normalization over the last axis in float32: subtracts no mean, adds no bias (T5, Llama)."""
    x = _normalize(x.astype(jnp.float32), eps, False)
    return x * _expand_like(scale, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _normalize(x: Float[Array, "*lead D"], eps: float, centered: bool) -> Float[Array, "*lead D"]:
    """x / sqrt(mean(x ** 2) + eps) over the last axis; the mean is subtracted first if `centered`."""
    return _normalize_forward(x, eps, centered)[0]


def _normalize_forward(x, eps, centered):
    if centered:
        x = x - x.mean(-1, keepdims=True)
    factor = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)
    out = x * factor
    return out, (out, factor)


def _normalize_backward(eps, centered, residuals, d_out):
    out, factor, d_out = optimization_barrier(*residuals, d_out)
    d_x = d_out - out * (d_out * out).mean(-1, keepdims=True)
    if centered:
        d_x = d_x - d_out.mean(-1, keepdims=True)
    return (factor * d_x,)


_normalize.defvjp(_normalize_forward, _normalize_backward)


def _expand_like(vector: Float[Array, " D"], x: Float[Array, "*lead D"]) -> Array:
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


@jax.custom_vjp
def relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Rectified linear unit."""
    return jnp.maximum(x, 0)


def _relu_forward(x):
    x = relu(x)
    return x, x


def _relu_backward(out, d_out):
    return (jnp.where(out > 0, d_out, jnp.zeros_like(d_out)),)


relu.defvjp(_relu_forward, _relu_backward)


def gated_activation(
    activation: Callable[[Array], Array], gate: Float[Array, "*shape"], up: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Returns activation(gate) * up, computed in float32 and rounded to the dtype of `gate`.

    The backward pass recomputes it.
    """

    def gated(gate: Array, up: Array) -> Array:
        return (activation(gate.astype(jnp.float32)) * up.astype(jnp.float32)).astype(gate.dtype)

    return jax.checkpoint(gated)(gate, up)
