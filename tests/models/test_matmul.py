"""Products with weights by oneDNN are those by XLA, in both directions, and only programs of one CPU ask for them."""

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

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
needs_onednn = pytest.mark.skipif(
    not matmul.onednn_serves(), reason="this CPU does not multiply bfloat16, or jaxlib was built without oneDNN"
)


@functools.cache
def program(onednn, out_in, out_dtype, dtype="bfloat16"):
    """(x, w, bias) -> the product and the three derivatives of a sum of it with uneven factors."""

    def scalar(x, w, bias):
        out = matmul.linear(x, w, bias, dtype=dtype, out_dtype=out_dtype, out_in=out_in)
        factors = jnp.sin(1.0 + jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return (out.astype(jnp.float32) * factors).sum(), out

    both = jax.value_and_grad(scalar, argnums=(0, 1, 2), has_aux=True)
    mesh = make_mesh(c.Mesh(), jax.devices()[: 1 if onednn else 8])
    return jax.jit(matmul.for_mesh(mesh)(both))


def draw(seed, lead, i, o, out_in, bias, x_dtype="float32"):
    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], (*lead, i), x_dtype)
    w = jax.random.normal(keys[1], (o, i) if out_in else (i, o))
    return x, w, jax.random.normal(keys[2], (o,)) if bias else None


@needs_onednn
@settings(max_examples=25, deadline=None)
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
def test_onednn_computes_what_xla_computes(seed, lead, i, o, out_in, bias, out_dtype, x_dtype):
    given = draw(seed, lead, i, o, out_in, bias, x_dtype)
    (_, out), gradients = program(True, out_in, out_dtype)(*given)
    (_, expected), expected_gradients = program(False, out_in, out_dtype)(*given)
    assert out.dtype == expected.dtype == out_dtype
    assert [g.dtype for g in jax.tree.leaves(gradients)] == [g.dtype for g in jax.tree.leaves(expected_gradients)]
    close(_wide(out), _wide(expected), FLOAT32 if out_dtype == "float32" else BFLOAT16)
    close(_wide(gradients), _wide(expected_gradients), FLOAT32 if x_dtype == "float32" else BFLOAT16)


def _wide(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)


def calls(program, *args):
    return program.lower(*args).compile().as_text().count('custom_call_target="__onednn$matmul"')


@needs_onednn
def test_one_product_forward_and_two_backward_and_none_elsewhere():
    given = draw(0, (4,), 8, 8, False, True)
    assert calls(program(True, False, "float32"), *given) == 3
    assert calls(program(False, False, "float32"), *given) == 0  # eight devices
    assert calls(program(True, False, "float32", "float32"), *given) == 0


@pytest.mark.parametrize("read", [(0, 1, 2), (0, 2), (1,)])
def test_what_is_not_read_has_no_derivative(read):
    x, ws = jnp.ones((2, 3)), [jnp.ones((3, 4))] * 3

    def total(x, ws):
        outs = matmul.linears(x, ws, [None, jnp.ones(4), None], dtype="float32", out_dtypes=["float32"] * 3)
        return sum(outs[i].sum() for i in read)

    gradient = jax.grad(total, argnums=(0, 1))
    text = jax.jit(gradient).lower(x, ws).as_text()
    assert text.count("dot_general") == 2 * len(read)  # forward products whose result is not needed are gone, too
    d_x, d_ws = gradient(x, ws)
    np.testing.assert_array_equal(d_x, 4.0 * len(read))
    for i, d_w in enumerate(d_ws):
        np.testing.assert_array_equal(d_w, 2.0 * (i in read))


@needs_onednn
def test_a_product_rounds_once():
    """float32 sums that bfloat16 would not hold on the way: 256 + 1 + 1 + ..."""
    x = jnp.ones((1, 512))
    (_, out), _ = program(True, False, "bfloat16")(x, jnp.ones((512, 1)).at[0, 0].set(256), jnp.full(1, 1.0))
    assert out.item() == 768.0


@needs_onednn
def test_what_the_cpu_can_do_is_not_tried_while_values_may_not_move(one_device):
    """As in the training loop, whose first update is traced under a guard."""
    matmul.onednn_serves.cache_clear()
    run = jax.jit(matmul.for_mesh(one_device)(lambda x, w: matmul.linear(x, w, dtype="bfloat16")))
    x, w = jnp.ones((2, 3)), jnp.ones((3, 4))
    with jax.transfer_guard("disallow"):
        out = run(x, w)
    assert calls(run, x, w) == 1
    np.testing.assert_array_equal(out, 3.0)


def test_a_cpu_that_does_not_multiply_bfloat16_is_left_to_xla(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda path: "flags : fpu avx2 avx512f amx_tile")
    assert not matmul.onednn_serves.__wrapped__()


def test_a_machine_that_does_not_tell_is_left_to_xla(monkeypatch):
    def absent(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", absent)
    assert not matmul.onednn_serves.__wrapped__()


def test_a_build_without_onednn_is_left_to_xla(monkeypatch):
    def refused(*args, **options):
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: XLA is not built with oneDNN.")

    monkeypatch.setattr(Path, "read_text", lambda path: "flags : fpu amx_bf16")
    monkeypatch.setattr(matmul, "_call", refused)
    assert not matmul.onednn_serves.__wrapped__()
    np.testing.assert_array_equal(matmul.linear(jnp.ones((2, 3)), jnp.ones((3, 4)), dtype="bfloat16"), 3.0)
