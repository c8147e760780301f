"""The chunked loss is the plain one, whatever the cut, and padding is inert."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scotd_jax.training.losses import Weighted, response_loss, response_loss_reference
from tests.helpers.tolerances import FLOAT32, GRADIENT

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")


def draw(B=2, G=3, R=5, E=8, V=11, seed=0):
    rng = np.random.default_rng(seed)
    arrays = (
        rng.standard_normal((B, G, R, E), np.float32),
        rng.standard_normal((V, E), np.float32),
        rng.integers(0, V, (B, G, R)).astype(np.int32),
        rng.integers(0, 3, (B, G, R)).astype(np.float32),
    )
    return tuple(jnp.asarray(array) for array in arrays)


def close(found, expected, tolerance):
    scale = max(float(np.max(np.abs(expected))), 1e-30)
    np.testing.assert_allclose(np.asarray(found) / scale, np.asarray(expected) / scale, rtol=0, atol=tolerance)


def value_and_grads(loss, hidden, unembedding, *rest):
    @jax.jit
    def run(hidden, unembedding, *rest):
        def total(hidden, unembedding):
            value, correct = loss(hidden, unembedding, *rest)
            return value.sum, (value, correct)

        return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(hidden, unembedding)

    return run(hidden, unembedding, *rest)


# 2 x 15 tokens: at once, one by one, in parts that divide them, in parts that do not, in more than there are
@pytest.mark.parametrize("chunk", [0, 1, 10, 8, 1000])
def test_any_cut_gives_loss_and_gradients_of_the_plain_one(chunk):
    arrays = draw(seed=chunk)
    (_, (loss, correct)), grads = value_and_grads(lambda *a: response_loss(*a, "float32", chunk), *arrays)
    (_, (loss_ref, correct_ref)), grads_ref = value_and_grads(response_loss_reference, *arrays)
    close(loss.sum, loss_ref.sum, FLOAT32)
    assert float(loss.weight) == float(loss_ref.weight) == float(arrays[3].sum())
    assert float(correct.sum) == float(correct_ref.sum)
    for found, expected in zip(grads, grads_ref, strict=True):
        close(found, expected, GRADIENT)


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.1, 0.0), (0.0, 0.01), (0.2, 0.1)])
@pytest.mark.parametrize("chunk", [0, 8])
def test_the_objective_is_the_plain_one_whatever_the_cut_and_leaves_the_loss_alone(chunk, smoothing, z_loss):
    arrays = draw(seed=chunk)

    def objective(function, *settings):
        def run(*arrays):
            loss, correct, objective = function(*arrays, *settings, label_smoothing=smoothing, z_loss=z_loss)
            return objective, (loss, correct)

        return value_and_grads(run, *arrays)

    (_, (found, others)), grads = objective(response_loss, "float32", chunk)
    (_, (expected, others_ref)), grads_ref = objective(response_loss_reference)
    close(found.sum, expected.sum, FLOAT32)
    for one, other in zip(grads, grads_ref, strict=True):
        close(one, other, GRADIENT)
    for one, other, plain in zip(others, others_ref, response_loss(*arrays, "float32", chunk), strict=True):
        close(one.sum, other.sum, FLOAT32)
        close(one.sum, plain.sum, FLOAT32)
    assert abs(float(found.sum - others[0].sum)) > 0.1


def test_padding_is_inert():
    hidden, unembedding, targets, weights = draw()
    pad = [(0, 0), (0, 0), (0, 4)]
    wide_hidden = jnp.pad(hidden, [*pad, (0, 0)], constant_values=1e3)  # whatever stands on padding
    plain, _ = response_loss(hidden, unembedding, targets, weights, chunk=4)
    (_, (padded, _)), (grad, _) = value_and_grads(
        lambda *a: response_loss(*a, "float32", 4),
        wide_hidden,
        unembedding,
        jnp.pad(targets, pad),
        jnp.pad(weights, pad),
    )
    close(padded.sum, plain.sum, FLOAT32)
    assert float(padded.weight) == float(plain.weight)
    assert not np.any(np.asarray(grad)[:, :, 5:])
    assert np.any(np.asarray(grad)[:, :, :5])


def test_extreme_logits_stay_finite():
    hidden, unembedding, targets, weights = draw()
    (_, (loss, _)), grads = value_and_grads(response_loss, 1e4 * hidden, 1e2 * unembedding, targets, weights)
    assert np.isfinite(float(loss.sum))
    assert all(np.all(np.isfinite(grad)) for grad in grads)


def test_bfloat16_inputs_are_accumulated_in_float32():
    hidden, unembedding, targets, weights = draw(E=512)
    rounded = [array.astype(jnp.bfloat16).astype(jnp.float32) for array in (hidden, unembedding)]
    loss, _ = response_loss(hidden, unembedding, targets, weights, "bfloat16")
    expected, _ = response_loss_reference(*rounded, targets, weights)
    close(loss.sum, expected.sum, FLOAT32)


@pytest.mark.usefixtures("compiled_for_users")
def test_chunks_bound_the_memory():
    def temporary(chunk):
        arrays = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in draw(2, 8, 16, 8, 4096)]
        grad = jax.jit(jax.grad(lambda *a: response_loss(*a, "float32", chunk)[0].sum, argnums=(0, 1)))
        return grad.lower(*arrays).compile().memory_analysis().temp_size_in_bytes

    assert temporary(16) < temporary(0) / 4


@pytest.mark.parametrize(("total", "weight", "mean"), [(6.0, 3.0, 2.0), (0.0, 0.0, 0.0)])
def test_a_mean_divides_once_and_nothing_has_mean_zero(total, weight, mean):
    halves = Weighted(jnp.float32(total / 2), jnp.float32(weight / 2))
    assert float(halves.plus(halves).mean()) == mean
