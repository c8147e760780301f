"""Numbers that are not finite, or explode, reach no checkpoint; each policy ends in finite parameters or an error."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scotd_jax import config, main
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import make_context
from scotd_jax.jobs.preparation.manifests import student_identity
from scotd_jax.training import metrics as training_metrics
from scotd_jax.training.checkpoints import load_params
from scotd_jax.training.loop import train
from scotd_jax.training.metrics import DeferredMetrics, DivergedError, read_metrics
from scotd_jax.workdir import Workdir
from tests.helpers.training_fixtures import bag_model, batch_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("calls_are_not_retraced", "fast_compilation")]

MODEL = bag_model()


def settings(**changes) -> config.Training:
    values = {"steps": 6, "batch_size": 4, "save_every": 2, "log_every": 1, "startup_check": False}
    return config.Training(**(values | {"optimizer": config.Optimizer(warmup_steps=1)} | changes))


class PoisonedBatches:
    """Batches of which some have a token weight that is not finite, which makes the loss NaN. Records those taken."""

    def __init__(self, *poisoned: int, drop: bool = False):
        """`drop` leaves the poisoned batches out."""
        self._poisoned, self._drop, self._position, self.taken = poisoned, drop, 0, []

    def __next__(self):
        self._position += 1
        if self._drop and self._position in self._poisoned:
            return next(self)
        self.taken.append(self._position)
        batch = {key: np.roll(array, self._position, axis=0) for key, array in batch_of(4).items()}
        if self._position in self._poisoned:
            batch["weights"] = np.where(batch["weights"] > 0, np.float32(np.inf), np.float32(0))
        return {"train": batch}

    def get_state(self):
        return {"position": self._position}

    def set_state(self, state):
        self._position = state["position"]


def final(folder):
    params, step = load_params(folder / "checkpoints", MODEL.abstract(), "last")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    return params, step


def test_stop_keeps_the_last_good_checkpoint(one_device, tmp_path):
    with pytest.raises(DivergedError, match="the loss of update 4 is nan, the norm of its gradient nan") as error:
        train(MODEL, None, PoisonedBatches(4), settings(), tmp_path, one_device)
    assert "resume with training.on_divergence='skip' or 'rewind'" in str(error.value)
    assert isinstance(error.value, InputError)
    assert final(tmp_path)[1] == 2


def test_skip_leaves_parameters_and_optimizer_unchanged(one_device, tmp_path, capfd):
    constant = config.Optimizer(warmup_steps=0, schedule="constant")  # the learning rate does not depend on the update
    skipping = settings(on_divergence="skip", optimizer=constant)
    train(MODEL, None, PoisonedBatches(4), skipping, tmp_path / "skipped", one_device)
    assert "update 4 skipped: the loss is nan, the norm of the gradient nan" in capfd.readouterr().err
    assert [row["step"] for row in read_metrics(tmp_path / "skipped/metrics.jsonl")] == [1, 2, 3, 5, 6]
    five = settings(on_divergence="skip", optimizer=constant, steps=5)
    train(MODEL, None, PoisonedBatches(4, drop=True), five, tmp_path / "dropped", one_device)
    found, expected = final(tmp_path / "skipped"), final(tmp_path / "dropped")
    assert (found[1], expected[1]) == (6, 5)
    jax.tree.map(np.testing.assert_array_equal, found[0], expected[0])


def test_run_ends_if_all_updates_are_skipped(one_device, tmp_path):
    batches, steps = PoisonedBatches(*range(3, 40)), settings(on_divergence="skip", steps=30)
    with pytest.raises(DivergedError, match=f"the loss of update {2 + training_metrics.MAX_SKIPS} is nan"):
        train(MODEL, None, batches, steps, tmp_path, one_device)


def test_rewind_returns_to_the_last_checkpoint_with_other_batches(one_device, tmp_path, capfd):
    batches = PoisonedBatches(4)
    train(MODEL, None, batches, settings(on_divergence="rewind"), tmp_path, one_device)
    errors = capfd.readouterr().err
    assert "the loss of update 4 is nan" in errors
    assert "returning to the last checkpoint, with the batches that follow" in errors
    assert final(tmp_path)[1] == 6
    # Updates 3 to 6 are made again with batches that follow the poisoned one; the host has taken one more before.
    assert batches.taken == list(range(1, 10)) or batches.taken == list(range(1, 9))
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_rewind_without_a_checkpoint_starts_again_and_ends_at_last(one_device, tmp_path):
    train(MODEL, None, PoisonedBatches(1), settings(on_divergence="rewind"), tmp_path / "once", one_device)
    assert final(tmp_path / "once")[1] == 6
    with pytest.raises(DivergedError, match="the loss of update 1 is nan"):
        train(
            MODEL, None, PoisonedBatches(*range(99)), settings(on_divergence="rewind"), tmp_path / "always", one_device
        )


def add_all(rows, **options):
    metrics = DeferredMetrics(1, lambda step, values: None, lambda: 0.0, **options)
    for step, row in enumerate(rows, 1):
        values = {"loss": 1.0, "grad_norm": 1.0, "param_norm": 5.0, "tokens": 1.0, "token_accuracy": 0.0} | row
        metrics.add(step, {name: jnp.float32(value) for name, value in values.items()}, {})
    metrics.drain()


@pytest.mark.parametrize(
    "row",
    [
        {"loss": np.nan},
        {"loss": -np.inf},
        {"grad_norm": np.inf},
        {"param_norm": np.nan},
        {"param_norm": np.inf},
        {"param_norm": 501.0},  # more than a hundred times the norm before
    ],
)
def test_every_number_of_an_update_is_checked(row):
    add_all([{}, {"param_norm": 499.0}])
    with pytest.raises(DivergedError, match="the loss of update 2 is"):
        add_all([{}, row])
    with contextlib.nullcontext() if "param_norm" not in row else pytest.raises(DivergedError):
        add_all([{}, row], skips=True)  # the device skips bad gradients; bad parameters cannot be skipped


def test_settings_for_divergence_are_not_part_of_the_identity(tmp_path):
    """They may be set to resume a training that has diverged, and work directories without them continue."""
    sizes = {"train": 8, "dev": 4, "test": 4, "unseen": 4, "longer": 4, "gold": 8, "statements": 4}
    model = config.Model("opt-tiny", overrides={"hidden_size": 32, "num_attention_heads": 2}, tokenizer="task:w")

    def run_config(**training) -> config.Config:
        return config.Config(
            tasks={"w": config.Task(options=sizes)},
            rationales={"gold": config.TaskSource(questions=("w.gold",))},
            corpora={"gold": config.Corpus(rationales=("gold",), decontaminate=0)},
            students={"s": config.Student(model=model, corpus="gold", training=config.Training(**training))},
        )

    main.run(config.plain(run_config()), str(tmp_path), ("sample", "build"), (), "")
    changes = {}, {"on_divergence": "skip"}, {"save_minutes": 1.0}
    identities = [
        student_identity(make_context(run_config(**change), Workdir(str(tmp_path))), "s") for change in changes
    ]
    assert identities[0] == identities[1] == identities[2]
    assert not {"on_divergence", "save_minutes"} & set(identities[0]["spec"]["training"])
    with pytest.raises(InputError, match="on_divergence"):
        config.from_mapping(config.Training, {"on_divergence": "ignore"})
    with pytest.raises(InputError, match="save_minutes: expected at least 0"):
        config.Training(save_minutes=float("nan"))
