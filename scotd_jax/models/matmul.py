"""Products with weights, forward and backward, by the library that is fast where they run.

The rule about numbers (layers.py): both factors are cast to the compute dtype, the sum is float32, in the derivative
as well. Left to itself, JAX would multiply a float32 cotangent with a bfloat16 matrix in the backward pass, which no
matrix unit does fast; so `linear` brings its own derivative, which is three products.

XLA computes them everywhere. On x86 CPUs that multiply bfloat16 its wheels carry a second library, oneDNN, which reads
transposed matrices where they lie, adds the bias and rounds before it writes, and gets more out of AMX. XLA's own way
to it takes float32 factors only; its custom call takes bfloat16. The call cannot be split over devices, so only
programs for one device ask for it (`for_mesh`). Both round a result once, from a float32 sum.
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
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from scotd_jax.distributed.mesh import mesh_platform
from scotd_jax.distributed.sharding import AnyMesh
from scotd_jax.models.forward_options import optimization_barrier

_BY_ONEDNN = contextvars.ContextVar("by_onednn", default=False)


class _How(NamedTuple):
    """What is known of products before their numbers are."""

    onednn: bool
    out_in: bool  # every w is [O, I]
    dtype: str  # of the factors
    out_dtypes: tuple[str, ...]
    x_dtype: str  # of x and each w as they were given, and so of their derivatives
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
    """x @ w + bias over the last axis of x, rounded to `out_dtype` at the end; w is [I, O], or [O, I] if `out_in`."""
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
    """`linear` of x with each of several w. For their derivative x is kept in `dtype`, once for all of them, and w,
    which is a parameter and there anyhow, as it is: in a loop over layers nobody else finds copies that are alike."""
    onednn = _BY_ONEDNN.get() and dtype == "bfloat16"
    how = _How(onednn, out_in, dtype, tuple(out_dtypes), x.dtype.name, tuple(w.dtype.name for w in ws))
    return _linears(how, x, tuple(ws), tuple(biases))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _linears(how, x, ws, biases):
    product, x = _onednn_out if how.onednn else _xla_out, x.astype(how.dtype)
    outs = (product(how, x, w.astype(how.dtype), *rest) for w, *rest in zip(ws, biases, how.out_dtypes, strict=True))
    return tuple(outs)


def _forward(how, x, ws, biases):
    x, ws, biases = jax.tree.map(lambda given: given.value, (x, ws, biases), is_leaf=lambda it: hasattr(it, "value"))
    return _linears.fun(how, x, ws, biases), (x.astype(how.dtype), ws, biases)


def _backward(how, saved, d_outs):
    x, ws, biases = saved
    # Nobody reads the queries of a prompt's last layer: such a product has no derivative, and none is computed.
    read = [i for i, d_out in enumerate(d_outs) if not isinstance(d_out, SymbolicZero)]
    x, *d_outs = optimization_barrier(x, *(d_outs[i] for i in read))
    derivatives = _onednn_derivatives if how.onednn else _xla_derivatives
    d_x_dtype = how.x_dtype if len(read) == 1 else "float32"  # a sum of several products is float32 until the end
    d_xs, d_ws = zip(
        *(
            derivatives(how, x, ws[i].astype(how.dtype), d_out.astype(how.dtype), d_x_dtype, how.w_dtypes[i])
            for i, d_out in zip(read, d_outs, strict=True)
        ),
        strict=True,
    )
    d_biases = [_summed(d_out, biases[i]) for i, d_out in zip(read, d_outs, strict=True)]
    d_x, *d_ws = optimization_barrier(sum(d_xs[1:], d_xs[0]).astype(how.x_dtype), *d_ws)
    return d_x, _placed(d_ws, read, ws), _placed(d_biases, read, ws)


_linears.defvjp(_forward, _backward, symbolic_zeros=True)


def _summed(d_out: Array, bias: Array | None) -> Array | None:
    return None if bias is None else d_out.astype(jnp.float32).sum(range(d_out.ndim - 1)).astype(bias.dtype)


def _placed(values: Sequence[Any], places: Sequence[int], like: Sequence[Any]) -> tuple[Any, ...]:
    """The values at their places in a tuple as long as `like`, whose other entries are None: zero."""
    found = dict(zip(places, values, strict=True))
    return tuple(found.get(i) for i in range(len(like)))


def _xla_out(how, x, w, bias, out_dtype):
    lead, axes = _axes(how, x)
    out = _einsum(f"{lead}i,{axes}->{lead}o", x, w)
    return (out if bias is None else out + bias.reshape((1,) * (out.ndim - 1) + bias.shape)).astype(out_dtype)


def _xla_derivatives(how, x, w, d_out, x_dtype, w_dtype):
    if x.ndim == 2:
        # One leading axis more makes the derivative of w a sum over two axes. XLA on CPUs then transposes x first and
        # keeps bfloat16; a sum over the one leading axis of a matrix it would compute in float32, several times slower.
        d_x, d_w = _xla_derivatives(how, x[None], w, d_out[None], x_dtype, w_dtype)
        return d_x[0], d_w
    lead, axes = _axes(how, x)
    d_x, d_w = _einsum(f"{lead}o,{axes}->{lead}i", d_out, w), _einsum(f"{lead}i,{lead}o->{axes}", x, d_out)
    return d_x.astype(x_dtype), d_w.astype(w_dtype)


def _axes(how, x) -> tuple[str, str]:
    return "abcdefgh"[: x.ndim - 1], "oi" if how.out_in else "io"


_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _onednn_out(how, x, w, bias, out_dtype):
    out = _call(_rows(x), w, bias, transpose_b=how.out_in, out_dtype=out_dtype)
    return out.reshape(*x.shape[:-1], -1)


def _onednn_derivatives(how, x, w, d_out, x_dtype, w_dtype):
    x_rows, d_rows = _rows(x), _rows(d_out)
    d_x = _call(d_rows, w, transpose_b=not how.out_in, out_dtype=x_dtype)
    d_w = _call(*((d_rows, x_rows) if how.out_in else (x_rows, d_rows)), transpose_a=True, out_dtype=w_dtype)
    return d_x.reshape(x.shape), d_w


def _rows(x: Float[Array, "*lead D"]) -> Float[Array, "N D"]:
    return x.reshape(-1, x.shape[-1])


def _call(a, b, bias=None, *, transpose_a=False, transpose_b=False, out_dtype):
    """a @ b + bias, of matrices, with factors transposed as they are read."""
    shape = a.shape[1 if transpose_a else 0], b.shape[0 if transpose_b else 1]
    settings = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    if bias is not None:
        settings["fusions"] = {"ops": ["BIAS"]}
    call = jax.ffi.ffi_call(
        "__onednn$matmul",
        jax.ShapeDtypeStruct(shape, out_dtype),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps({"onednn_matmul_config": settings}),
    )
    return call(a, b, *([] if bias is None else [bias[None]]))


def for_mesh(mesh: AnyMesh) -> contextlib.ContextDecorator:
    """A block, or the decorator of a function: products that are traced inside of it are those of a program for `mesh`.
    What the CPU can do is tried out here and not inside, where values may not move."""
    return _chosen(mesh.size == 1 and mesh_platform(mesh) == "cpu" and onednn_serves())


@contextlib.contextmanager
def _chosen(onednn: bool) -> Iterator[None]:
    token = _BY_ONEDNN.set(onednn)
    try:
        yield
    finally:
        _BY_ONEDNN.reset(token)


@functools.cache
def onednn_serves() -> bool:
    """Whether the CPU multiplies bfloat16 and XLA was built with oneDNN: one small product is tried."""
    if not _multiplies_bfloat16():
        return False
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        x, w = (jnp.arange(16, dtype=jnp.bfloat16).reshape(4, 4) - shift for shift in (3, 7))
        try:
            found = jax.jit(lambda x, w: _call(x, w, jnp.ones(4), out_dtype="float32"))(x, w)
        except jax.errors.JaxRuntimeError:  # a build without it
            return False
        expected = np.asarray(x, np.float32) @ np.asarray(w, np.float32) + 1
        return bool(np.array_equal(np.asarray(found), expected))


def _multiplies_bfloat16() -> bool:
    """Without such instructions oneDNN would compute by its plain reference."""
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(words)
