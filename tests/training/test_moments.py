"""First moments in bfloat16: half the bytes, nearly the same loss curve, and second moments that still decay.

test_trainable.py tests that a run with moments in bfloat16 resumes bit for bit.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scotd_jax import config
from scotd_jax.errors import InputError
from scotd_jax.training.loop import train
from scotd_jax.training.metrics import read_metrics
from scotd_jax.training.optimizer import make_optimizer
from tests.helpers.training_fixtures import bag_model, batches

pytestmark = pytest.mark.usefixtures("calls_are_not_retraced", "fast_compilation")
MODEL = bag_model()


def settings(name, moments, **changes):
    return config.Optimizer(**{"name": name, "learning_rate": 0.02, "warmup_steps": 2, "moments": moments, **changes})


def bytes_of_moments(state, params):
    shapes = {leaf.shape for leaf in jax.tree.leaves(params)}
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state) if leaf.shape in shapes)


@pytest.mark.parametrize(
    ("name", "moments", "per_kernel", "per_table"),
    [("adamw", "float32", 8, 8), ("adamw", "bfloat16", 6, 6), ("muon", "float32", 4, 8), ("muon", "bfloat16", 2, 6)],
)
def test_bytes_of_the_optimizer_state(name, moments, per_kernel, per_table):
    params = MODEL.abstract()
    kernels = 2 * 8 * 16
    rest = sum(leaf.size for leaf in jax.tree.leaves(params)) - kernels
    state = jax.eval_shape(make_optimizer(settings(name, moments), 10).init, params)
    assert bytes_of_moments(state, params) == kernels * per_kernel + rest * per_table


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_loss_curve_is_close_to_float32(one_device, tmp_path, name):
    curves = []
    for moments in ("float32", "bfloat16"):
        spec = config.Training(steps=60, batch_size=4, log_every=1, optimizer=settings(name, moments))
        train(MODEL, None, batches(4), spec, tmp_path / moments, one_device)
        curves.append(np.array([line["loss"] for line in read_metrics(tmp_path / moments / "metrics.jsonl")]))
    exact, rounded = curves
    assert exact[-5:].mean() < 0.6 * exact[0]
    np.testing.assert_allclose(rounded, exact, rtol=0.02)
    assert not np.array_equal(rounded, exact)


def test_second_moments_decay_after_a_large_gradient():
    """Second moments are float32: in bfloat16, a moment that should shrink by a thousandth keeps its value."""
    optimizer = make_optimizer(settings("adamw", "bfloat16", clip_norm=0.0, b2=0.999), 2000)
    params = {"kernel": jnp.ones((2, 2))}

    def update(state, gradient):
        return optimizer.update({"kernel": jnp.full((2, 2), gradient)}, state, params)[1], None

    gradients = jnp.zeros(1000).at[0].set(100.0)
    state, _ = jax.jit(lambda state: jax.lax.scan(update, state, gradients))(optimizer.init(params))
    adam = next(part for part in jax.tree.leaves(state, is_leaf=_is_adam) if _is_adam(part))
    assert adam.mu["kernel"].dtype == jnp.bfloat16
    np.testing.assert_allclose(adam.nu["kernel"], 0.001 * 100.0**2 * 0.999**999, rtol=1e-3)
    moment = jnp.bfloat16(10.0)
    assert moment + jnp.bfloat16(0.001) * (jnp.bfloat16(0.0) - moment) == moment


def _is_adam(node):
    return isinstance(node, optax.ScaleByAdamState)


def test_bfloat16_moments_of_adafactor_are_refused():
    with pytest.raises(InputError, match=r"^optimizer\.moments: adafactor keeps no first moments"):
        make_optimizer(settings("adafactor", "bfloat16"), 10)
