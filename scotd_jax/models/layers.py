"""The few layers that all models are made of, and the one rule about numbers that all of them keep.

The rule: what goes into a matrix product is cast to the compute dtype, and what comes out was added up in float32, in
the forward pass and in the backward pass. It stays float32 where it is normalized or joins the residual stream, so
bfloat16 never accumulates and never holds the residual stream, which in T5 grows beyond its precision. What goes from
one product into the next (queries, keys, values, the inside of an MLP) is held in the compute dtype.

Products with weights are those of products.py. Norms and activations bring their own derivatives so that little is kept
for them: JAX keeps three arrays of a LayerNorm and two of a ReLU, where one each says all.

The classes hold parameters and know how to apply them, nothing else. They take an `nnx.Rngs` while they are built and
do not keep it.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from scotd_jax.models.forward_options import optimization_barrier, save_for_backward
from scotd_jax.models.matmul import linear, linears


def logits(hidden: Float[Array, "*lead E"], unembedding: Float[Array, "V E"], dtype: str) -> Float[Array, "*lead V"]:
    """Scores of all tokens, float32: hidden @ unembedding.T."""
    return linear(hidden, unembedding, dtype=dtype, out_in=True)


def embed(table: Float[Array, "V D"], tokens: Int[Array, "*shape"]) -> Float[Array, "*shape D"]:
    """Rows of the table. Indices outside of it take the nearest row, so that padding never makes NaN."""
    return table.at[tokens].get(mode="clip")


def layer_norm(x: Float[Array, "*lead D"], scale: Float[Array, " D"], bias: Float[Array, " D"], eps: float) -> Array:
    """Layer normalization over the last axis in float32, with population variance."""
    x = _normal(x.astype(jnp.float32), eps, True)
    return x * _last(scale, x) + _last(bias, x)


def rms_norm(x: Float[Array, "*lead D"], scale: Float[Array, " D"], eps: float) -> Array:
    """Division by the root of the mean square over the last axis, in float32; no mean, no bias (T5, Llama)."""
    x = _normal(x.astype(jnp.float32), eps, False)
    return x * _last(scale, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _normal(x: Float[Array, "*lead D"], eps: float, centred: bool) -> Float[Array, "*lead D"]:
    """x / sqrt(mean(x ** 2) + eps) over the last axis; `centred`, x without its mean."""
    return _normal_forward(x, eps, centred)[0]


def _normal_forward(x, eps, centred):
    if centred:
        x = x - x.mean(-1, keepdims=True)
    factor = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)
    out = x * factor
    return out, (out, factor)


def _normal_backward(eps, centred, saved, cotangent):
    out, factor, cotangent = optimization_barrier(*saved, cotangent)
    dx = cotangent - out * (cotangent * out).mean(-1, keepdims=True)
    if centred:
        dx = dx - cotangent.mean(-1, keepdims=True)
    return (factor * dx,)


_normal.defvjp(_normal_forward, _normal_backward)


@jax.custom_vjp
def relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jnp.maximum(x, 0)


def _relu_forward(x):
    x = relu(x)
    return x, x


def _relu_backward(out, cotangent):
    return (jnp.where(out > 0, cotangent, jnp.zeros_like(cotangent)),)


relu.defvjp(_relu_forward, _relu_backward)


def gated(act: Callable[[Array], Array], gate: Float[Array, "*shape"], up: Float[Array, "*shape"]) -> Array:
    """act(gate) * up, computed in float32, in the dtype of both. Its derivative computes it again."""

    def product(gate: Array, up: Array) -> Array:
        return (act(gate.astype(jnp.float32)) * up.astype(jnp.float32)).astype(gate.dtype)

    return jax.checkpoint(product)(gate, up)


def _last(vector: Array, like: Array) -> Array:
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float) -> nnx.Param:
    return nnx.Param(std * jax.random.normal(rngs(), shape, jnp.float32))


class Dense(nnx.Module):
    """x @ kernel + bias (products.py); `narrow` says that the result has the compute dtype."""

    def __init__(self, fan_in: int, fan_out: int, *, std: float, bias: bool, dtype: str, rngs, narrow: bool = False):
        self.kernel = normal(rngs, (fan_in, fan_out), std)
        self.bias = nnx.Param(jnp.zeros(fan_out, jnp.float32)) if bias else None
        self.dtype, self.out_dtype = dtype, dtype if narrow else "float32"

    def __call__(self, x: Array) -> Array:
        return each_of((self,), x)[0]


def each_of(layers: Sequence[Dense], x: Array) -> list[Array]:
    """What several layers, side by side, make of x."""
    kernels, dtypes = [layer.kernel[...] for layer in layers], [layer.out_dtype for layer in layers]
    biases = [None if layer.bias is None else layer.bias[...] for layer in layers]
    return [save_for_backward(out) for out in linears(x, kernels, biases, dtype=layers[0].dtype, out_dtypes=dtypes)]


class LayerNorm(nnx.Module):
    def __init__(self, width: int, *, eps: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        return layer_norm(x, self.scale[...], self.bias[...], self.eps)


class RMSNorm(nnx.Module):
    def __init__(self, width: int, *, eps: float):
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        return rms_norm(x, self.scale[...], self.eps)


class Heads(nnx.Module):
    """The four projections of one attention: H heads of width Dh, which need not add up to the model width (T5)."""

    def __init__(self, width: int, heads: int, head_width: int, *, stds, bias: bool, dtype: str, rngs: nnx.Rngs):
        inner = heads * head_width
        shape = {"bias": bias, "dtype": dtype, "rngs": rngs}
        self.q, self.k, self.v = (Dense(width, inner, std=stds[n], narrow=True, **shape) for n in "qkv")
        self.o = Dense(inner, width, std=stds["o"], **shape)
        self.heads = heads

    def queries(self, x: Float[Array, "*lead R D"]) -> Float[Array, "*lead R H Dh"]:
        return self._split(self.q(x))

    def keys_values(self, x: Float[Array, "*lead R D"]) -> tuple[Array, Array]:
        """Both [*lead, H, R, Dh]: heads before tokens, see attention.py."""
        key, value = (self._split(each).swapaxes(-3, -2) for each in each_of((self.k, self.v), x))
        return key, value

    def all_three(self, x: Float[Array, "*lead R D"]) -> tuple[Array, Array, Array]:
        """Queries, keys and values of the same tokens."""
        query, key, value = map(self._split, each_of((self.q, self.k, self.v), x))
        return query, key.swapaxes(-3, -2), value.swapaxes(-3, -2)

    def output(self, x: Float[Array, "*lead H Dh"]) -> Float[Array, "*lead D"]:
        return self.o(x.reshape(*x.shape[:-2], -1))

    def _split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)
