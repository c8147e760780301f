"""Norms and activations: their custom derivatives match the formulas and save few arrays."""

import functools

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scotd_jax.models.layers import gated_activation, layer_norm, relu, rms_norm
from tests.helpers.tolerances import BFLOAT16, FLOAT32
from tests.models.test_attention import close

pytestmark = pytest.mark.usefixtures("fast_compilation")

SILU = jax.nn.silu


def row(vector):
    """Returns a vector [D] as [1, 1, D], so that it combines with x[2, 3, D]."""
    return vector[None, None]


def layer_norm_reference(x, scale, bias):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * row(scale) + row(bias)


def rms_norm_reference(x, scale, bias):
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * row(scale)


# Our implementation and the formula, as functions of x[2, 3, D] and two vectors.
FORMULAS = {
    "layer_norm": (lambda x, a, b: layer_norm(x, a, b, 1e-5), layer_norm_reference),
    "rms_norm": (lambda x, a, b: rms_norm(x, a, 1e-5), rms_norm_reference),
    "relu": (lambda x, a, b: relu(x * row(a) + row(b)), lambda x, a, b: jnp.maximum(x * row(a) + row(b), 0)),
    "gated_activation": (
        lambda x, a, b: gated_activation(SILU, x * row(a), x + row(b)),
        lambda x, a, b: SILU(x * row(a)) * (x + row(b)),
    ),
}


@functools.cache
def with_gradients(function):
    def scalar(args):
        out = function(*args)
        return (out * jnp.sin(1.0 + jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)).sum(), out

    return jax.jit(jax.value_and_grad(scalar, has_aux=True))


def random_inputs(seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    return tuple(jax.random.normal(key, shape) for key, shape in zip(keys, ((2, 3, 8), (8,), (8,)), strict=True))


@pytest.mark.parametrize("name", FORMULAS)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_values_and_derivatives_match_the_formula(name, seed):
    ours, formula = FORMULAS[name]
    (_, out), gradients = with_gradients(ours)(random_inputs(seed))
    (_, expected), expected_gradients = with_gradients(formula)(random_inputs(seed))
    close(out, expected, FLOAT32)
    close(gradients, expected_gradients, FLOAT32)


def test_gated_activation_computes_in_float32_and_returns_the_input_dtype():
    gate, up = (jax.random.normal(jax.random.key(i), (64,), jnp.bfloat16) for i in range(2))
    out = gated_activation(SILU, gate, up)
    assert out.dtype == jnp.bfloat16
    exact = SILU(gate.astype(jnp.float32)) * up.astype(jnp.float32)
    assert jnp.array_equal(out, exact.astype(jnp.bfloat16))
    close(out.astype(jnp.float32), exact, BFLOAT16)


def saved_size(function, *args):
    """Returns the number of array entries saved between the forward and the backward pass."""
    residuals = jax.eval_shape(lambda *args: jax.vjp(function, *args)[1], *args)
    return sum(leaf.size for leaf in jax.tree.leaves(residuals) if leaf.ndim)


@pytest.mark.usefixtures("default_compilation")
def test_derivatives_save_few_arrays():
    x, vector = jnp.ones((1, 8, 64)), jnp.ones(64)
    small = 8 + 3 * 64  # one number per row, scale and bias
    assert saved_size(FORMULAS["layer_norm"][0], x, vector, vector) <= x.size + small
    assert saved_size(FORMULAS["rms_norm"][0], x, vector, vector) <= x.size + small
    assert saved_size(relu, x) == x.size
    assert saved_size(lambda gate, up: gated_activation(SILU, gate, up), x, x) == 2 * x.size
    assert saved_size(layer_norm_reference, x, vector, vector) > 2 * x.size
