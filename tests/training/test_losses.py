"""The chunked loss equals the reference for every chunk size, and padding has no effect."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scotd_jax.training.losses import WeightedSum, response_loss, response_loss_reference
from tests.helpers.tolerances import FLOAT32, GRADIENT

pytestmark = pytest.mark.usefixtures("fast_compilation")


def random_arrays(B=2, G=3, R=5, E=8, V=11, seed=0):
    rng = np.random.default_rng(seed)
    arrays = (
        rng.standard_normal((B, G, R, E), np.float32),
        rng.standard_normal((V, E), np.float32),
        rng.integers(0, V, (B, G, R)).astype(np.int32),
        rng.integers(0, 3, (B, G, R)).astype(np.float32),
    )
    return tuple(jnp.asarray(array) for array in arrays)


def assert_close(found, expected, tolerance):
    scale = max(float(np.max(np.abs(expected))), 1e-30)
    np.testing.assert_allclose(np.asarray(found) / scale, np.asarray(expected) / scale, rtol=0, atol=tolerance)


def value_and_grads(loss, hidden, unembedding, *rest):
    """Returns ((value, what `loss` returns), gradients of hidden states and unembedding)."""

    @jax.jit
    def run(hidden, unembedding, *rest):
        def total(hidden, unembedding):
            value, correct = loss(hidden, unembedding, *rest)
            return value.sum, (value, correct)

        return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(hidden, unembedding)

    return run(hidden, unembedding, *rest)


# 2 x 15 tokens: all at once, one by one, chunks that divide them, chunks that do not, a chunk larger than the batch
@pytest.mark.parametrize("chunk", [0, 1, 10, 8, 1000])
def test_loss_and_gradients_equal_the_reference_for_every_chunk_size(chunk):
    arrays = random_arrays(seed=chunk)
    (_, (loss, correct)), grads = value_and_grads(lambda *a: response_loss(*a, "float32", chunk), *arrays)
    (_, (loss_ref, correct_ref)), grads_ref = value_and_grads(response_loss_reference, *arrays)
    assert_close(loss.sum, loss_ref.sum, FLOAT32)
    assert float(loss.weight) == float(loss_ref.weight) == float(arrays[3].sum())
    assert float(correct.sum) == float(correct_ref.sum)
    for found, expected in zip(grads, grads_ref, strict=True):
        assert_close(found, expected, GRADIENT)


@pytest.mark.slow
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.1, 0.0), (0.0, 0.01), (0.2, 0.1)])
@pytest.mark.parametrize("chunk", [0, 8])
def test_objective_equals_the_reference_and_does_not_change_the_loss(chunk, smoothing, z_loss):
    arrays = random_arrays(seed=chunk)

    def objective_and_grads(loss_function, *settings):
        def run(*arrays):
            loss, correct, objective = loss_function(*arrays, *settings, label_smoothing=smoothing, z_loss=z_loss)
            return objective, (loss, correct)

        return value_and_grads(run, *arrays)

    (_, (objective, metrics)), grads = objective_and_grads(response_loss, "float32", chunk)
    (_, (objective_ref, metrics_ref)), grads_ref = objective_and_grads(response_loss_reference)
    assert_close(objective.sum, objective_ref.sum, FLOAT32)
    for found, expected in zip(grads, grads_ref, strict=True):
        assert_close(found, expected, GRADIENT)
    for found, expected, plain in zip(metrics, metrics_ref, response_loss(*arrays, "float32", chunk), strict=True):
        assert_close(found.sum, expected.sum, FLOAT32)
        assert_close(found.sum, plain.sum, FLOAT32)
    assert abs(float(objective.sum - metrics[0].sum)) > 0.1


def test_padding_has_no_effect():
    hidden, unembedding, targets, weights = random_arrays()
    pad = [(0, 0), (0, 0), (0, 4)]
    wide_hidden = jnp.pad(hidden, [*pad, (0, 0)], constant_values=1e3)  # padding may contain anything
    plain, _ = response_loss(hidden, unembedding, targets, weights, chunk=4)
    (_, (padded, _)), (grad, _) = value_and_grads(
        lambda *a: response_loss(*a, "float32", 4),
        wide_hidden,
        unembedding,
        jnp.pad(targets, pad),
        jnp.pad(weights, pad),
    )
    assert_close(padded.sum, plain.sum, FLOAT32)
    assert float(padded.weight) == float(plain.weight)
    assert not np.any(np.asarray(grad)[:, :, 5:])
    assert np.any(np.asarray(grad)[:, :, :5])


def test_extreme_logits_give_finite_losses_and_gradients():
    hidden, unembedding, targets, weights = random_arrays()
    (_, (loss, _)), grads = value_and_grads(response_loss, 1e4 * hidden, 1e2 * unembedding, targets, weights)
    assert np.isfinite(float(loss.sum))
    assert all(np.all(np.isfinite(grad)) for grad in grads)


def test_bfloat16_inputs_are_accumulated_in_float32():
    hidden, unembedding, targets, weights = random_arrays(E=512)
    rounded = [array.astype(jnp.bfloat16).astype(jnp.float32) for array in (hidden, unembedding)]
    loss, _ = response_loss(hidden, unembedding, targets, weights, "bfloat16")
    expected, _ = response_loss_reference(*rounded, targets, weights)
    assert_close(loss.sum, expected.sum, FLOAT32)


@pytest.mark.usefixtures("default_compilation")
def test_chunks_bound_the_memory():
    def temporary(chunk):
        arrays = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in random_arrays(2, 8, 16, 8, 4096)]
        grad = jax.jit(jax.grad(lambda *a: response_loss(*a, "float32", chunk)[0].sum, argnums=(0, 1)))
        return grad.lower(*arrays).compile().memory_analysis().temp_size_in_bytes

    assert temporary(16) < temporary(0) / 4


@pytest.mark.parametrize(("total", "weight", "mean"), [(6.0, 3.0, 2.0), (0.0, 0.0, 0.0)])
def test_mean_divides_once_and_is_zero_without_weight(total, weight, mean):
    halves = WeightedSum(jnp.float32(total / 2), jnp.float32(weight / 2))
    assert float(jax.tree.map(jnp.add, halves, halves).mean()) == mean
