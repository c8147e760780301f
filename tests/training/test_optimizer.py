"""Learning-rate schedules, and the updates that each optimizer makes to each kind of parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scotd_jax import config
from scotd_jax.errors import InputError
from scotd_jax.training.optimizer import make_optimizer, make_schedule
from tests.helpers.tolerances import FLOAT32

pytestmark = pytest.mark.usefixtures("fast_compilation")

NAMES = ["adamw", "adafactor", "muon"]


def settings(**changes):
    return config.Optimizer(**{"learning_rate": 1.0, "warmup_steps": 0, "schedule": "constant", **changes})


def params():
    rng = np.random.default_rng(0)
    return {
        "embed": {"tokens": jnp.asarray(rng.standard_normal((6, 4), np.float32))},
        "mlp": {"kernel": jnp.asarray(rng.standard_normal((4, 8), np.float32)), "bias": jnp.ones(8)},
        "lm_head": {"kernel": jnp.asarray(rng.standard_normal((6, 4), np.float32))},
        "norm": {"scale": jnp.ones(4)},
        "encoder": {"rel_bias": jnp.ones((3, 2))},
    }


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({}, [1, 1, 1, 1, 1, 1, 1, 1]),
        ({"warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        ({"warmup_steps": 1, "schedule": "linear"}, [1, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]),
        ({"schedule": "linear", "final_fraction": 0.2}, [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]),
        ({"schedule": "cosine", "warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_learning_rates_of_a_run_of_eight_updates(changes, rates):
    schedule = make_schedule(settings(**changes), 8)
    np.testing.assert_allclose([float(schedule(jnp.int32(i))) for i in range(8)], rates, atol=1e-6)


def test_warmup_longer_than_the_run_is_refused():
    with pytest.raises(InputError, match="warmup_steps is 8, but training lasts 8 steps"):
        make_optimizer(settings(warmup_steps=8), 8)


@pytest.mark.parametrize("name", NAMES)
def test_optimizers_minimize_a_quadratic(name):
    target, start = params(), jax.tree.map(jnp.zeros_like, params())
    optimizer = make_optimizer(settings(name=name, learning_rate=0.1, schedule="linear"), 300)

    @jax.jit
    def run(start):
        def update(carry, _):
            current, state = carry
            grads = jax.tree.map(lambda a, b: a - b, current, target)
            updates, state = optimizer.update(grads, state, current)
            return (optax.apply_updates(current, updates), state), None

        return jax.lax.scan(update, (start, optimizer.init(start)), length=300)[0][0]

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.02), run(start), target)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_applies_to_matrices_only(name):
    start = params()
    optimizer = make_optimizer(settings(name=name, learning_rate=0.5, weight_decay=0.1), 10)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, start), optimizer.init(start), start)
    np.testing.assert_allclose(updates["mlp"]["kernel"], -0.05 * start["mlp"]["kernel"], rtol=FLOAT32)
    assert not np.any(updates["mlp"]["bias"])
    assert not np.any(updates["norm"]["scale"])
    assert not np.any(updates["encoder"]["rel_bias"])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_large_gradient_is_clipped_to_the_norm(name):
    start = params()
    optimizer, unclipped = (make_optimizer(settings(name=name, clip_norm=norm), 10) for norm in (2.0, 0.0))
    large = jax.tree.map(lambda leaf: 100 * leaf, start)
    scaled = jax.tree.map(lambda leaf: leaf * (2.0 / optax.tree.norm(large)), large)
    clipped, _ = optimizer.update(large, optimizer.init(start), start)
    expected, _ = unclipped.update(scaled, unclipped.init(start), start)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), clipped, expected)
    # The moments are of the clipped gradient.
    moments = [jax.tree.leaves(o.update(large, o.init(start), start)[1]) for o in (optimizer, unclipped)]
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in moments[0]) < max(
        float(jnp.max(jnp.abs(leaf))) for leaf in moments[1]
    )


def test_muon_orthogonalizes_kernels_and_uses_adam_for_tables():
    start = params()
    grads = jax.tree.map(lambda leaf: jnp.sin(7 * leaf) + 0.1, start)
    optimizer = make_optimizer(settings(name="muon", clip_norm=0.0), 10)
    updates, _ = optimizer.update(grads, optimizer.init(start), start)
    singular = np.linalg.svd(np.asarray(updates["mlp"]["kernel"]), compute_uv=False)
    assert singular.max() / singular.min() < 2.5  # Newton-Schulz makes all singular values similar
    # The ratio of the gradient itself is above 2.5.
    assert np.linalg.svd(np.asarray(grads["mlp"]["kernel"]), compute_uv=False)[[0, -1]] @ [1, -2.5] > 0
    rms = float(np.sqrt(np.mean(np.square(updates["mlp"]["kernel"]))))
    assert 0.1 < rms < 0.3  # as in an AdamW update
    for table in ("embed/tokens", "lm_head/kernel"):
        outer, inner = table.split("/")
        size = np.abs(updates[outer][inner])
        np.testing.assert_allclose(
            size, size.mean(), rtol=1e-4
        )  # Adam's first update has the same size for every entry
        assert np.array_equal(np.sign(updates[outer][inner]), -np.sign(grads[outer][inner]))
