"""Matmuls by oneDNN match XLA in both directions, and only programs for one CPU device use oneDNN."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scotd_jax import config as c
from scotd_jax.distributed.mesh import make_mesh
from scotd_jax.models import matmul
from tests.helpers.tolerances import BFLOAT16, FLOAT32
from tests.models.test_attention import close

pytestmark = pytest.mark.usefixtures("fast_compilation")
needs_onednn = pytest.mark.skipif(
    not matmul.onednn_available(), reason="this CPU does not multiply bfloat16, or jaxlib was built without oneDNN"
)


@functools.cache
def program(onednn, out_in, out_dtype, dtype="bfloat16"):
    """Returns a compiled function of x, w and bias: the output, and the gradient of a weighted sum of its entries.

    It is compiled for one device, where oneDNN is used, if `onednn`, else for eight. `out_in`: w is [out, in].
    """

    def scalar(x, w, bias):
        out = matmul.linear(x, w, bias, dtype=dtype, out_dtype=out_dtype, out_in=out_in)
        factors = jnp.sin(1.0 + jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return (out.astype(jnp.float32) * factors).sum(), out

    value_and_grad = jax.value_and_grad(scalar, argnums=(0, 1, 2), has_aux=True)
    mesh = make_mesh(c.Mesh(), jax.devices()[: 1 if onednn else 8])
    return jax.jit(matmul.for_mesh(mesh)(value_and_grad))


def random_inputs(seed, lead, i, o, out_in, bias, x_dtype="float32"):
    """Returns x, w and bias of a matmul from `i` to `o` features; `lead` are the leading axes of x."""
    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], (*lead, i), x_dtype)
    w = jax.random.normal(keys[1], (o, i) if out_in else (i, o))
    return x, w, jax.random.normal(keys[2], (o,)) if bias else None


@pytest.mark.slow
@needs_onednn
@settings(max_examples=25)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1,), (5,), (2, 3, 4)]),
    st.sampled_from([1, 3, 64]),
    st.sampled_from([1, 7, 32]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["float32", "bfloat16"]),
    st.sampled_from(["float32", "bfloat16"]),
)
def test_onednn_matches_xla(seed, lead, i, o, out_in, bias, out_dtype, x_dtype):
    inputs = random_inputs(seed, lead, i, o, out_in, bias, x_dtype)
    (_, out), gradients = program(True, out_in, out_dtype)(*inputs)
    (_, expected), expected_gradients = program(False, out_in, out_dtype)(*inputs)
    assert out.dtype == expected.dtype == out_dtype
    assert [g.dtype for g in jax.tree.leaves(gradients)] == [g.dtype for g in jax.tree.leaves(expected_gradients)]
    close(as_float32(out), as_float32(expected), FLOAT32 if out_dtype == "float32" else BFLOAT16)
    close(as_float32(gradients), as_float32(expected_gradients), FLOAT32 if x_dtype == "float32" else BFLOAT16)


def as_float32(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)


def onednn_calls(program, *args):
    return program.lower(*args).compile().as_text().count('custom_call_target="__onednn$matmul"')


@needs_onednn
def test_onednn_is_called_three_times_on_one_device_and_never_on_several():
    inputs = random_inputs(0, (4,), 8, 8, False, True)
    assert onednn_calls(program(True, False, "float32"), *inputs) == 3
    assert onednn_calls(program(False, False, "float32"), *inputs) == 0  # on eight devices
    assert onednn_calls(program(True, False, "float32", "float32"), *inputs) == 0


@pytest.mark.parametrize("used", [(0, 1, 2), (0, 2), (1,)])
def test_unused_outputs_have_no_derivative(used):
    x, ws = jnp.ones((2, 3)), [jnp.ones((3, 4))] * 3

    def total(x, ws):
        outs = matmul.linears(x, ws, [None, jnp.ones(4), None], dtype="float32", out_dtypes=["float32"] * 3)
        return sum(outs[i].sum() for i in used)

    gradient = jax.grad(total, argnums=(0, 1))
    text = jax.jit(gradient).lower(x, ws).as_text()
    assert text.count("dot_general") == 2 * len(used)  # XLA also removes the unused forward matmuls
    d_x, d_ws = gradient(x, ws)
    np.testing.assert_array_equal(d_x, 4.0 * len(used))
    for i, d_w in enumerate(d_ws):
        np.testing.assert_array_equal(d_w, 2.0 * (i in used))


@needs_onednn
def test_result_is_rounded_once():
    """256 + 1 + 1 + ... would not grow if it were accumulated in bfloat16."""
    x = jnp.ones((1, 512))
    (_, out), _ = program(True, False, "bfloat16")(x, jnp.ones((512, 1)).at[0, 0].set(256), jnp.full(1, 1.0))
    assert out.item() == 768.0


@needs_onednn
def test_onednn_check_runs_outside_the_transfer_guard(one_device):
    """The training loop traces its first update under a transfer guard."""
    matmul.onednn_available.cache_clear()
    run = jax.jit(matmul.for_mesh(one_device)(lambda x, w: matmul.linear(x, w, dtype="bfloat16")))
    x, w = jnp.ones((2, 3)), jnp.ones((3, 4))
    with jax.transfer_guard("disallow"):
        out = run(x, w)
    assert onednn_calls(run, x, w) == 1
    np.testing.assert_array_equal(out, 3.0)


def test_cpu_without_bfloat16_uses_xla(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda path: "flags : fpu avx2 avx512f amx_tile")
    assert not matmul.onednn_available.__wrapped__()


def test_machine_without_cpuinfo_uses_xla(monkeypatch):
    def absent(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", absent)
    assert not matmul.onednn_available.__wrapped__()


def test_jaxlib_without_onednn_uses_xla(monkeypatch):
    def refused(*args, **options):
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: XLA is not built with oneDNN.")

    monkeypatch.setattr(Path, "read_text", lambda path: "flags : fpu amx_bf16")
    monkeypatch.setattr(matmul, "_onednn_matmul", refused)
    assert not matmul.onednn_available.__wrapped__()
    np.testing.assert_array_equal(matmul.linear(jnp.ones((2, 3)), jnp.ones((3, 4)), dtype="bfloat16"), 3.0)
