"""Grouped attention equals its reference in values and gradients, and copies no shared keys."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scotd_jax.models.attention import causal_mask, grouped_attention, grouped_attention_reference
from scotd_jax.models.layers import logits
from scotd_jax.models.matmul import linear
from tests.helpers.tolerances import BFLOAT16, FLOAT32, GRADIENT

pytestmark = pytest.mark.usefixtures("fast_compilation")

# B, G, R, query heads, key heads, (batch, length) of every segment, lengths of the own blocks, with bias.
# A third number in a segment is G: its mask differs between the responses to a question.
CASES = {
    "question": (2, 3, 4, 2, 2, ((2, 5),), (4,), False),
    "few-shot examples and question, grouped query": (2, 2, 3, 4, 2, ((1, 6), (2, 5)), (3,), False),
    "cross-attention": (2, 3, 4, 2, 2, ((2, 5),), (), False),
    "own past only, with bias": (2, 2, 4, 4, 2, (), (4,), True),
    "cached step, with bias": (1, 3, 1, 2, 1, ((1, 4),), (7, 4), True),
    "one of two questions": (2, 3, 1, 4, 2, ((1, 6), (2, 5, 3), (2, 5, 3)), (4, 2), False),
}


def close(got, want, tolerance):
    """Asserts equality of trees of arrays, with a tolerance relative to the largest entry of all."""
    # NumPy, because jax.numpy would compile a program for every shape.
    got, want = jax.tree.map(np.asarray, (got, want))
    atol = tolerance * max(abs(w).max() for w in jax.tree.leaves(want))
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=0, atol=atol), got, want)


def arrays(case, seed, dtype="float32", empty=False):
    """Returns random (query, shared keys and values, own ones, biases) of a case, and (segment masks, own masks).

    Segments may be fully masked. The last own block is causal; in earlier ones every row has its own length.
    """
    B, G, R, H, K, segments, own_lengths, with_bias = CASES[case]
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    shared = [(normal(b, K, s, 8), normal(b, K, s, 8)) for b, s, *_ in segments]
    own = [(normal(B, G, K, T, 8), normal(B, G, K, T, 8)) for T in own_lengths]
    lead = [(B, G)] * (len(own) - 1) + [(1, 1)]  # all responses share the bias of the last block
    biases = [normal(*b, H, R, T) if with_bias else None for b, T in zip(lead, own_lengths, strict=False)]
    segment_masks = [rng.random((b, *g, s)) < (0 if empty else rng.random()) for b, s, *g in segments]
    own_masks = [np.arange(T) < rng.integers(0, T + 1, (B, G, 1, 1)) for T in own_lengths[:-1]]
    own_masks += [causal_mask(R, T, T - R) for T in own_lengths[-1:]]
    return (normal(B, G, R, H, 8), shared, own, biases), jax.tree.map(jnp.asarray, (segment_masks, own_masks))


def apply(attention, inputs, masks):
    query, shared, own, biases = inputs
    segments = [(k, v, mask) for (k, v), mask in zip(shared, masks[0], strict=True)]
    own_blocks = [(k, v, mask, bias) for (k, v), mask, bias in zip(own, masks[1], biases, strict=True)]
    return attention(query, segments, own_blocks, 0.3)


@functools.cache  # compiled once for all examples
def value_and_gradient(attention):
    """Returns a compiled function of inputs and masks: ((weighted sum of the output, output), gradient of the sum)."""

    def scalar(inputs, masks):
        out = apply(attention, inputs, masks)
        return (
            out.astype(jnp.float32) * jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        ).sum(), out

    return jax.jit(jax.value_and_grad(scalar, has_aux=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), empty=st.booleans())
def test_grouped_attention_equals_reference(case, seed, empty):
    inputs, masks = arrays(case, seed, empty=empty)
    (_, got), d_got = value_and_gradient(grouped_attention)(inputs, masks)
    (_, want), d_want = value_and_gradient(grouped_attention_reference)(inputs, masks)
    close(got, want, FLOAT32)
    close(d_got, d_want, GRADIENT)


def test_causal_mask_matches_hand_computed_values():
    assert causal_mask(2, 4, 1)[0, 0].tolist() == [[True, True, False, False], [True, True, True, False]]
    assert causal_mask(2, 2)[0, 0].tolist() == [[True, False], [True, True]]


def assert_zeros(attention, inputs, masks):
    """Asserts that output and gradients are zero with masks that hide everything."""
    (_, out), gradient = value_and_gradient(attention)(inputs, masks)
    assert not out.any()
    assert not any(g.any() for g in jax.tree.leaves(gradient))


def test_fully_masked_rows_are_zero():
    assert_zeros(grouped_attention, *arrays("cross-attention", 0, empty=True))


def assert_close_in_bfloat16(attention, exact, inputs, masks):
    """Asserts that `attention` on bfloat16 inputs is close to `exact` on float32 inputs."""
    bfloat16_inputs = jax.tree.map(lambda x: x.astype(jnp.bfloat16), inputs)
    (_, got), d_got = value_and_gradient(attention)(bfloat16_inputs, masks)
    (_, want), d_want = value_and_gradient(exact)(inputs, masks)
    assert got.dtype == jnp.bfloat16
    close(got.astype(jnp.float32), want, BFLOAT16)
    close(jax.tree.map(lambda x: x.astype(jnp.float32), d_got), d_want, BFLOAT16)


def test_grouped_attention_in_bfloat16_is_close():
    inputs, masks = arrays("few-shot examples and question, grouped query", 0)
    assert_close_in_bfloat16(grouped_attention, grouped_attention, inputs, masks)


def test_attention_copies_no_shared_keys_and_saves_no_weights():
    B, G, R, H, S, Dh = 1, 5, 7, 1, 64, 32
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)  # noqa: E731
    args = (shape(B, G, R, H, Dh), shape(B, H, S, Dh), shape(B, G, H, R, Dh))

    def call(attention, query, shared, own):
        return attention(query, [(shared, shared, jnp.ones((B, S), bool))], [(own, own, causal_mask(R, R), None)], 1.0)

    def largest_array(attention):
        equations = jax.make_jaxpr(functools.partial(call, attention))(*args).jaxpr.eqns
        return max(v.aval.size for e in all_equations(equations) for v in e.outvars)

    def largest_residual(attention):
        saved = jax.eval_shape(lambda *a: jax.vjp(functools.partial(call, attention), *a)[1], *args)
        return max(x.size for x in jax.tree.leaves(saved))

    weights, copied_keys = B * G * R * H * S, B * G * S * Dh
    assert largest_array(grouped_attention) <= weights < copied_keys <= largest_array(grouped_attention_reference)
    assert largest_residual(grouped_attention) < weights <= largest_residual(grouped_attention_reference)


def all_equations(equations):
    """Yields all equations of a jaxpr, including those of inner jaxprs."""
    for e in equations:
        yield e
        for inner in jax.extend.core.jaxprs_in_params(e.params):
            yield from all_equations(inner.eqns)


@pytest.mark.parametrize(
    "matmul", [lambda x, w: linear(x, w, dtype="bfloat16"), lambda x, w: logits(x, w.T, "bfloat16")]
)
@pytest.mark.parametrize("lead", [(6,), (2, 3)])
def test_matmuls_take_bfloat16_and_return_float32_in_both_directions(matmul, lead):
    x, w = jnp.ones((*lead, 4)), jnp.ones((4, 5))
    jaxpr = jax.make_jaxpr(jax.grad(lambda x, w: jnp.square(matmul(x, w)).sum(), argnums=(0, 1)))(x, w)
    matmuls = [e for e in all_equations(jaxpr.jaxpr.eqns) if e.primitive.name == "dot_general"]
    assert len(matmuls) == 3
    assert all({v.aval.dtype.name for v in e.invars} == {"bfloat16"} for e in matmuls)
    assert all(e.outvars[0].aval.dtype == jnp.float32 for e in matmuls)
    dx, dw = jax.grad(lambda x, w: matmul(x, w).sum(), argnums=(0, 1))(x, w)
    assert dx.dtype == dw.dtype == jnp.float32
    np.testing.assert_array_equal(dw, np.full((4, 5), 6.0))
