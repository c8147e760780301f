"""The train step and the training loop: micro-batches, compilations, metrics, checkpoints, error messages."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scotd_jax import config
from scotd_jax.errors import InputError
from scotd_jax.training.checkpoints import best_index, load_params
from scotd_jax.training.loop import train
from scotd_jax.training.losses import response_loss_reference
from scotd_jax.training.metric_services import metric_services
from scotd_jax.training.metrics import MetricWriter, read_metrics
from scotd_jax.training.optimizer import make_optimizer, make_schedule
from scotd_jax.training.step import ONE_PART, TrainState, make_loss_fn, make_train_step
from tests.helpers.tolerances import FLOAT32
from tests.helpers.training_fixtures import BagConfig, bag_model, batch_of, batches

pytestmark = pytest.mark.usefixtures("calls_are_not_retraced", "fast_compilation")
MODEL = bag_model()
ADAM = config.Optimizer(learning_rate=0.02, warmup_steps=2)


def settings(**changes):
    return config.Training(**{"steps": 12, "batch_size": 4, "optimizer": ADAM, "log_every": 4, **changes})


def one_update(batch, microbatches=1, name="adamw", parts=ONE_PART):
    """State and metrics after one update. With a single part, `batch` is that part."""
    settings = config.Optimizer(name=name, learning_rate=0.02, warmup_steps=0, clip_norm=0.0)
    optimizer = make_optimizer(settings, 10)
    params = MODEL.init(jax.random.key(0))
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    step = make_train_step(MODEL, optimizer, make_schedule(settings, 10), microbatches, parts=parts)
    return jax.jit(step)(state, batch if len(parts) > 1 else {"train": batch})


def assert_close(found, expected, tolerance=FLOAT32):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1e-30, float(np.max(np.abs(b))))),
        found,
        expected,
    )


def assert_bit_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.slow
def test_microbatches_do_not_change_the_update_even_if_one_is_all_padding():
    batch = batch_of(8)
    batch["weights"][::2] = 0.0  # with two micro-batches the first one is all padding
    state, metrics = one_update(batch)
    for microbatches in (2, 4):
        split_state, split_metrics = one_update(batch, microbatches)
        assert_close(split_metrics, metrics)
        assert_close(split_state.opt_state[0].mu, state.opt_state[0].mu)  # the first moment is linear in the gradient
    assert float(metrics["tokens"]) == batch["weights"].sum() > 0


@pytest.mark.slow
def test_metrics_equal_those_of_the_reference_loss():
    batch = jax.tree.map(jnp.asarray, batch_of(4))
    state, metrics = one_update(batch)
    params = MODEL.init(jax.random.key(0))

    def loss(params):
        context = MODEL.prefill(params, batch["prompt"], batch["prompt_mask"])
        hidden, _ = MODEL.extend(params, context, batch["inputs"])
        unembedding = MODEL.unembedding(params)
        nats, correct = response_loss_reference(hidden, unembedding, batch["targets"], batch["weights"])
        return nats.mean(), correct.mean()

    (nats, accuracy), grads = jax.value_and_grad(loss, has_aux=True)(params)
    squares = sum(float(jnp.sum(jnp.square(leaf))) for leaf in jax.tree.leaves(grads))
    expected = {
        "loss": nats,
        "token_accuracy": accuracy,
        "tokens": batch["weights"].sum(),
        "rationales": 8.0,
        "grad_norm": squares**0.5,
        "param_norm": sum(float(jnp.sum(jnp.square(leaf))) for leaf in jax.tree.leaves(state.params)) ** 0.5,
        "learning_rate": 0.02,
    }
    assert_close(metrics, expected)


def test_response_weight_counts_as_number_of_rationales():
    """In packed rows, a response that is drawn three times is one response of weight 3. It counts as three."""
    batch = batch_of(4)
    batch["weights"][:, 0] *= 3.0
    assert float(one_update(batch)[1]["rationales"]) == 4 * (3 + 1)


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [1, 2])
def test_gradient_of_weighted_parts_is_the_weighted_sum_of_their_gradients(microbatches):
    """Parts of different shapes and numbers of tokens: each counts by its weight, not by its length."""
    batch = {"predict": batch_of(4, G=1, R=3), "explain": batch_of(4, G=3, R=6, P=5)}
    parts = (("predict", 0.3), ("explain", 0.7))
    state, metrics = one_update(batch, microbatches, parts=parts)
    params = MODEL.init(jax.random.key(0))

    def mean(params, name):
        return make_loss_fn(MODEL)(params, jax.tree.map(jnp.asarray, batch[name]))[0].mean()

    losses, grads = zip(*(jax.value_and_grad(mean)(params, name) for name, _ in parts), strict=True)
    expected = jax.tree.map(lambda a, b: 0.3 * a + 0.7 * b, *grads)
    assert_close(jax.tree.map(lambda mu: mu / (1 - ADAM.b1), state.opt_state[0].mu), expected)
    assert_close([metrics["loss_predict"], metrics["loss_explain"]], list(losses))
    assert_close(metrics["loss"], 0.3 * losses[0] + 0.7 * losses[1])
    assert batch["predict"]["weights"].sum() != batch["explain"]["weights"].sum()


@pytest.mark.slow
def test_loop_reduces_the_loss_logs_means_and_compiles_once(one_device, tmp_path):
    logged = []

    def log(step, values):
        logged.append((step, values))
        if step == 1:  # after the first update nothing may be traced
            stack.enter_context(jax.no_tracing(True))

    with contextlib.ExitStack() as stack:
        train(MODEL, None, batches(4), settings(steps=60, log_every=1), tmp_path / "fine", one_device, log=log)
    losses = [values["loss"] for _, values in logged]
    assert [step for step, _ in logged] == list(range(1, 61))
    assert np.mean(losses[-5:]) < 0.6 * losses[0]

    train(MODEL, None, batches(4), settings(steps=60, log_every=25), tmp_path / "coarse", one_device)
    lines = read_metrics(tmp_path / "coarse" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [25, 50, 60]
    for line, first in zip(lines, (0, 25, 50), strict=True):
        rows = [values for _, values in logged[first : line["step"]]]
        tokens = np.array([row["tokens"] for row in rows])
        assert line["tokens"] == tokens.sum()
        assert line["learning_rate"] == rows[-1]["learning_rate"]
        for name in ("loss", "token_accuracy"):
            np.testing.assert_allclose(line[name], np.average([row[name] for row in rows], weights=tokens))
        np.testing.assert_allclose(line["grad_norm"], np.mean([row["grad_norm"] for row in rows]))


@pytest.mark.slow
@pytest.mark.usefixtures("default_compilation")
def test_best_and_last_checkpoints_contain_the_evaluated_parameters(one_device, tmp_path):
    """Saving runs in the background of the next updates, which reuse the buffers of the state being saved."""
    accuracy = {2: 0.1, 4: 0.9, 6: 0.3, 8: 0.9, 10: 0.2, 12: 0.4}
    evaluated = {}

    def evaluate(params, step):
        evaluated[step] = jax.tree.map(lambda leaf: np.array(leaf, copy=True), params)
        return {"dev_accuracy": accuracy[step]}

    train(MODEL, None, batches(4), settings(eval_every=2, max_to_keep=1), tmp_path, one_device, evaluate=evaluate)
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["12", "4"]
    for which, step in (("best", 4), ("last", 12)):  # the earlier one wins a tie
        params, found = load_params(folder, MODEL.abstract(), which)
        assert found == step
        assert_bit_equal(params, evaluated[step])
    assert {
        row["step"]: row["dev_accuracy"] for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" not in row
    } == accuracy


@pytest.mark.parametrize(
    ("scores", "best"),
    [([-1.0, -1.0], 1), ([0.0, -1.0], 0), ([0.5, 0.5, -1.0], 0)],
)
def test_best_index_prefers_the_earlier_of_equal_checkpoints(scores, best):
    assert best_index(scores) == best


class CountingBatches:
    """A batch iterator that counts how many batches were taken."""

    def __init__(self):
        self.taken = 0

    def __next__(self):
        self.taken += 1
        return {"train": batch_of(4)}

    def get_state(self):
        return {"taken": self.taken}

    def set_state(self, state):
        self.taken = state["taken"]


def test_checkpoint_after_n_updates_has_taken_n_batches(one_device, tmp_path):
    batch_iterator = CountingBatches()
    train(MODEL, None, batch_iterator, settings(steps=6, save_every=3), tmp_path, one_device)
    batch_iterator.taken = 99
    train(MODEL, None, batch_iterator, settings(steps=6, save_every=3), tmp_path, one_device)
    assert batch_iterator.taken == 6  # restored, and no batch is taken because no update is left


@pytest.mark.slow
@pytest.mark.usefixtures("default_compilation")
@pytest.mark.parametrize("kind", ["numpy", "jax"])
def test_initial_parameters_are_not_modified(one_device, tmp_path, kind):
    start = jax.tree.map(np.asarray, MODEL.init(jax.random.key(5)))
    initial = start if kind == "numpy" else jax.tree.map(jnp.array, start)
    before = jax.tree.map(lambda leaf: np.array(leaf, copy=True), initial)
    states = []

    def evaluate(params, step):
        states.append(jax.tree.map(lambda leaf: np.array(leaf, copy=True), params))
        return {}

    train(MODEL, lambda: initial, batches(4), settings(steps=3), tmp_path, one_device, evaluate=evaluate)
    assert_bit_equal(initial, before)
    assert not np.array_equal(states[0]["mlp"]["up"]["kernel"], before["mlp"]["up"]["kernel"])
    first = read_metrics(tmp_path / "metrics.jsonl")[0]
    assert first["learning_rate"] < ADAM.learning_rate  # the learning rate decays linearly over the 3 updates


@pytest.mark.slow
def test_checkpoint_of_another_model_or_optimizer_is_refused(one_device, tmp_path):
    train(MODEL, None, batches(4), settings(steps=3), tmp_path, one_device)
    wide = bag_model(BagConfig(width=12))
    where = rf"{tmp_path}/checkpoints/3: checkpoint of another "
    with pytest.raises(InputError, match=where + r"model: embed/tokens is \[16, 8\] there and \[16, 12\] in this"):
        train(wide, None, batches(4), settings(steps=3), tmp_path, one_device)
    with pytest.raises(InputError, match=where + "model: embed/tokens"):
        load_params(tmp_path / "checkpoints", wide.abstract())
    other = settings(steps=3, optimizer=config.Optimizer(name="muon", warmup_steps=2))
    with pytest.raises(InputError, match=where + "optimizer: opt_state.* is .* and absent in this config"):
        train(MODEL, None, batches(4), other, tmp_path, one_device)
    with pytest.raises(InputError, match=r"there are no checkpoints here; run the job 'train' first"):
        load_params(tmp_path / "nothing", MODEL.abstract())


@pytest.mark.slow
def test_loss_that_is_not_finite_raises(one_device, tmp_path):
    start = jax.tree.map(np.array, MODEL.init(jax.random.key(0)))
    start["embed"]["tokens"][:] = np.nan
    with pytest.raises(InputError, match="the loss of update 1 is nan, the norm of its gradient"):
        train(MODEL, lambda: start, batches(4), settings(), tmp_path, one_device)


def test_batch_size_not_divisible_by_microbatches_is_refused(one_device, tmp_path):
    with pytest.raises(InputError, match="batch_size is 6, .* make it a multiple of 4"):
        train(MODEL, None, batches(4), settings(batch_size=6, microbatches=4), tmp_path, one_device)


@pytest.mark.parametrize(
    "name", ["steps", "batch_size", "group_size", "microbatches", "balance_window", "max_shapes", "log_every"]
)
def test_training_counts_below_one_are_refused(name):
    with pytest.raises(InputError, match=f"Training.{name}: expected at least 1, found 0"):
        settings(**{name: 0})


def test_metrics_after_the_restored_step_and_an_incomplete_line_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricWriter(path, 0) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": step / 2})
    path.write_text(path.read_text() + '{"step": 4, "lo')
    with MetricWriter(path, 2) as writer:
        writer.write(3, {"loss": 7.0})
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 7.0}]
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(InputError, match=r"metrics.jsonl line 2: not a JSON object"):
        read_metrics(path)


def test_tensorboard_receives_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboard", reason="clu writes for TensorBoard with it; in the extra 'tensorboard'")
    training = config.Training(tensorboard=True)
    with MetricWriter(tmp_path / "metrics.jsonl", 0, metric_services(training, tmp_path)) as writer:
        writer.write(1, {"loss": 0.5})
    written = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"loss" in written
    assert np.float32(0.5).tobytes() in written
