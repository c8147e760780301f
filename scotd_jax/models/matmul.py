"""Matrix multiplication with weights, forward and backward, by the backend that is fastest on the device.

Numerics (layers.py): both operands are cast to the compute dtype and the sum is accumulated in float32, in the
derivative as well. JAX's own derivative would multiply a float32 cotangent by a bfloat16 matrix, which is slow on every
matrix unit; so `linear` defines its derivative.

The backend is XLA everywhere except on x86 CPUs with bfloat16 instructions. There it is oneDNN, which jaxlib contains.
OneDNN reads transposed matrices in place, adds the bias and rounds before it writes, and makes better use of AMX. XLA
itself calls it for float32 operands only, but its custom call also takes bfloat16. The call cannot be sharded, so only
programs for one device use it (`for_mesh`). Both backends round a result once, from a float32 sum.
"""

import contextlib
import contextvars
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values
from jaxtyping import Array, Float

from scotd_jax.distributed.mesh import mesh_platform
from scotd_jax.distributed.sharding import AnyMesh
from scotd_jax.models.forward_options import optimization_barrier

_USE_ONEDNN = contextvars.ContextVar("use_onednn", default=False)


class _Settings(NamedTuple):
    """The static arguments of `_linears`."""

    onednn: bool
    out_in: bool  # every w is [O, I]
    dtype: str  # of the operands
    out_dtypes: tuple[str, ...]
    x_dtype: str  # of the argument x, and so of its derivative; w_dtypes likewise
    w_dtypes: tuple[str, ...]


def linear(
    x: Float[Array, "*lead I"],
    w: Float[Array, "_ _"],
    bias: Float[Array, " O"] | None = None,
    *,
    dtype: str,
    out_dtype: str = "float32",
    out_in: bool = False,
) -> Float[Array, "*lead O"]:
    """Returns x @ w + bias over the last axis of x.

    Args:
      x: the input.
      w: the weights, [I, O], or [O, I] if `out_in`.
      bias: added before rounding.
      dtype: both operands are cast to it.
      out_dtype: the float32 sum is rounded to it.
      out_in: the layout of w.
    """
    return linears(x, (w,), (bias,), dtype=dtype, out_dtypes=(out_dtype,), out_in=out_in)[0]


def linears(
    x: Array,
    ws: Sequence[Array],
    biases: Sequence[Array | None],
    *,
    dtype: str,
    out_dtypes: Sequence[str],
    out_in: bool = False,
) -> tuple[Array, ...]:
    """Returns `linear(x, w, bias)` for every w in `ws`, with its bias and output dtype.

    The derivative saves x once, cast to `dtype`, and every w uncast: w is a parameter and in memory anyway, and in a
    scan over layers XLA would not merge equal cast copies.
    """
    onednn = _USE_ONEDNN.get() and dtype == "bfloat16"
    settings = _Settings(onednn, out_in, dtype, tuple(out_dtypes), x.dtype.name, tuple(w.dtype.name for w in ws))
    return _linears(settings, x, tuple(ws), tuple(biases))


def _compute(settings, x, ws, biases):
    matmul, x = _onednn_forward if settings.onednn else _xla_forward, x.astype(settings.dtype)
    return tuple(
        matmul(settings, x, w.astype(settings.dtype), bias, out_dtype)
        for w, bias, out_dtype in zip(ws, biases, settings.out_dtypes, strict=True)
    )


def _forward(settings, x, ws, biases):
    x, ws, biases = custom_vjp_primal_tree_values((x, ws, biases))
    return _compute(settings, x, ws, biases), (x.astype(settings.dtype), ws, biases)


def _backward(settings, residuals, d_outs):
    x, ws, biases = residuals
    # The cotangent of an unused output (the queries of a prompt's last layer) is a symbolic zero: skip its matmuls.
    used = [i for i, d_out in enumerate(d_outs) if not isinstance(d_out, SymbolicZero)]
    x, *d_outs = optimization_barrier(x, *(d_outs[i] for i in used))
    derivatives = _onednn_backward if settings.onednn else _xla_backward
    d_x_dtype = settings.x_dtype if len(used) == 1 else "float32"  # several matmuls are summed in float32
    d_xs, d_ws = zip(
        *(
            derivatives(
                settings,
                x,
                ws[i].astype(settings.dtype),
                d_out.astype(settings.dtype),
                d_x_dtype,
                settings.w_dtypes[i],
            )
            for i, d_out in zip(used, d_outs, strict=True)
        ),
        strict=True,
    )
    d_biases = [_bias_derivative(d_out, biases[i]) for i, d_out in zip(used, d_outs, strict=True)]
    d_x, *d_ws = optimization_barrier(sum(d_xs[1:], d_xs[0]).astype(settings.x_dtype), *d_ws)
    return d_x, _scatter(d_ws, used, len(ws)), _scatter(d_biases, used, len(ws))


_linears = jax.custom_vjp(_compute, nondiff_argnums=(0,))
_linears.defvjp(_forward, _backward, symbolic_zeros=True)


def _bias_derivative(d_out: Array, bias: Array | None) -> Array | None:
    return None if bias is None else d_out.astype(jnp.float32).sum(range(d_out.ndim - 1)).astype(bias.dtype)


def _scatter(values: Sequence[Any], indices: Sequence[int], length: int) -> tuple[Any, ...]:
    """Returns a tuple with the values at their indices and None elsewhere; as a derivative, None means zero."""
    by_index = dict(zip(indices, values, strict=True))
    return tuple(by_index.get(i) for i in range(length))


def _xla_forward(settings, x, w, bias, out_dtype):
    lead, w_axes = _einsum_axes(settings, x)
    out = _einsum(f"{lead}i,{w_axes}->{lead}o", x, w)
    return (out if bias is None else out + bias.reshape((1,) * (out.ndim - 1) + bias.shape)).astype(out_dtype)


def _xla_backward(settings, x, w, d_out, x_dtype, w_dtype):
    if x.ndim == 2:
        # With a second leading axis the derivative of w is a sum over two axes, for which XLA for CPUs transposes x
        # first and stays in bfloat16. It would compute a sum over one leading axis in float32, several times slower.
        d_x, d_w = _xla_backward(settings, x[None], w, d_out[None], x_dtype, w_dtype)
        return d_x[0], d_w
    lead, w_axes = _einsum_axes(settings, x)
    d_x, d_w = _einsum(f"{lead}o,{w_axes}->{lead}i", d_out, w), _einsum(f"{lead}i,{lead}o->{w_axes}", x, d_out)
    return d_x.astype(x_dtype), d_w.astype(w_dtype)


def _einsum_axes(settings, x) -> tuple[str, str]:
    return "abcdefgh"[: x.ndim - 1], "oi" if settings.out_in else "io"


_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _onednn_forward(settings, x, w, bias, out_dtype):
    out = _onednn_matmul(_as_matrix(x), w, bias, transpose_b=settings.out_in, out_dtype=out_dtype)
    return out.reshape(*x.shape[:-1], -1)


def _onednn_backward(settings, x, w, d_out, x_dtype, w_dtype):
    x_rows, d_rows = _as_matrix(x), _as_matrix(d_out)
    d_x = _onednn_matmul(d_rows, w, transpose_b=not settings.out_in, out_dtype=x_dtype)
    operands = (d_rows, x_rows) if settings.out_in else (x_rows, d_rows)
    d_w = _onednn_matmul(*operands, transpose_a=True, out_dtype=w_dtype)
    return d_x.reshape(x.shape), d_w


def _as_matrix(x: Float[Array, "*lead D"]) -> Float[Array, "N D"]:
    return x.reshape(-1, x.shape[-1])


def _onednn_matmul(a, b, bias=None, *, transpose_a=False, transpose_b=False, out_dtype):
    """Returns a @ b + bias for matrices; oneDNN transposes a and b while it reads them."""
    shape = a.shape[1 if transpose_a else 0], b.shape[0 if transpose_b else 1]
    config = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    if bias is not None:
        config["fusions"] = {"ops": ["BIAS"]}
    call = jax.ffi.ffi_call(
        "__onednn$matmul",
        jax.ShapeDtypeStruct(shape, out_dtype),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps({"onednn_matmul_config": config}),
    )
    return call(a, b, *([] if bias is None else [bias[None]]))


def for_mesh(mesh: AnyMesh) -> contextlib.ContextDecorator:
    """Returns a context manager or decorator: matmuls traced inside use the backend for `mesh`.

    This call, not entering the context, tests whether oneDNN works: the test transfers arrays, which may be disallowed
    inside.
    """
    return _set_onednn(mesh.size == 1 and mesh_platform(mesh) == "cpu" and onednn_available())


@contextlib.contextmanager
def _set_onednn(onednn: bool) -> Iterator[None]:
    token = _USE_ONEDNN.set(onednn)
    try:
        yield
    finally:
        _USE_ONEDNN.reset(token)


@functools.cache
def onednn_available() -> bool:
    """Whether the CPU multiplies bfloat16 and XLA was built with oneDNN, found by computing one small matmul."""
    if not _cpu_multiplies_bfloat16():
        return False
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        x, w = (jnp.arange(16, dtype=jnp.bfloat16).reshape(4, 4) - shift for shift in (3, 7))
        try:
            found = jax.jit(lambda x, w: _onednn_matmul(x, w, jnp.ones(4), out_dtype="float32"))(x, w)
        except jax.errors.JaxRuntimeError:  # XLA was built without oneDNN
            return False
        expected = np.asarray(x, np.float32) @ np.asarray(w, np.float32) + 1
        return bool(np.array_equal(np.asarray(found), expected))


def _cpu_multiplies_bfloat16() -> bool:
    """Whether the CPU has bfloat16 instructions. On others oneDNN would use its slow reference implementation."""
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(words)
