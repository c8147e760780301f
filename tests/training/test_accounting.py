"""Wall time by category, goodput, FLOPs and profiles. Tests set the clock, so they do not depend on the machine."""

import contextlib
import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scotd_jax import config
from scotd_jax.distributed.flops import training_flops
from scotd_jax.distributed.profiling import profile_steps
from scotd_jax.errors import InputError
from scotd_jax.models import registry
from scotd_jax.models.api import Precision
from scotd_jax.training import accounting
from scotd_jax.training.accounting import CATEGORIES, GoodputTracker, batch_flops, previous_seconds, summarize_cost
from scotd_jax.training.checkpoints import load_params
from scotd_jax.training.loop import train
from scotd_jax.training.metrics import DeferredMetrics, read_metrics
from tests.helpers.training_fixtures import BagConfig, bag_model, batch_of, batches, is_time

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("calls_are_not_retraced", "fast_compilation")]
MODEL = bag_model()
ADAM = config.Optimizer(learning_rate=0.02, warmup_steps=2)


def settings(**changes):
    return config.Training(**{"steps": 12, "batch_size": 4, "optimizer": ADAM, "log_every": 4, **changes})


class Clock:
    """A clock that the tests set."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_every_second_belongs_to_one_category():
    clock = Clock()
    tracker = GoodputTracker(clock=clock)
    clock.now += 2
    with tracker.measure("compile"):
        clock.now += 5
    with tracker.measure("input", lambda: False):  # the devices are busy, so this is part of an update
        clock.now += 1
    with tracker.measure("input", lambda: True):
        clock.now += 0.5
    with contextlib.suppress(ZeroDivisionError), tracker.measure("evaluation"):
        clock.now += 1.5
        _ = 1 / 0
    zero = dict.fromkeys(("checkpoint", "other", "lost"), 0.0)
    expected = {"updates": 3.0, "compile": 5.0, "input": 0.5, "evaluation": 1.5, **zero}
    assert tracker.totals() == {"goodput": 0.3, **{f"seconds_{name}": value for name, value in expected.items()}}


def metrics_line(step: int, **seconds: float) -> dict[str, float]:
    return {
        "step": step,
        "goodput": 0.5,
        **{f"seconds_{n}": float(seconds.get(n, 0)) for n in ("updates", *CATEGORIES)},
    }


def test_resumed_run_counts_repeated_updates_as_lost(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert previous_seconds(path, 0) == {}
    rows = [
        metrics_line(5, updates=10, compile=3),
        {"step": 5, "dev_accuracy": 0.5},
        metrics_line(10, updates=18, compile=3, input=2),
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = previous_seconds(path, 5)
    assert before == dict.fromkeys(CATEGORIES, 0.0) | {"updates": 10.0, "compile": 3.0, "input": 2.0, "lost": 8.0}
    assert previous_seconds(path, 0)["lost"] == 18.0  # no checkpoint
    assert previous_seconds(path, 10)["lost"] == 0.0
    clock = Clock()
    tracker = GoodputTracker(before, clock)
    clock.now += 4
    with tracker.measure("checkpoint"):
        clock.now += 1
    found = tracker.totals()
    assert (found["seconds_updates"], found["seconds_lost"], found["seconds_checkpoint"]) == (14.0, 8.0, 1.0)
    assert found["goodput"] == 14 / 28
    path.write_text('{"step": 5, "loss": 1.0}\n')  # a file without times
    assert previous_seconds(path, 5) == {}


def test_flops_include_all_positions_of_the_arrays():
    model = registry.build(registry.config_for("opt-tiny"), Precision("float32"))
    batch = jax.tree.map(jnp.asarray, {"predict": batch_of(4, G=1, R=3), "explain": batch_of(4, G=3, R=6, P=5)})
    flops = batch_flops(model.config, batch)
    shapes = (
        {"questions": 4, "group": 1, "prompt": 4, "response": 3},
        {"questions": 4, "group": 3, "prompt": 5, "response": 6},
    )
    assert flops == {"flops": sum(training_flops(model.config, **shape) for shape in shapes)}
    assert batch_flops(BagConfig(), batch) == {}


def test_metrics_line_sums_flops_and_has_mfu_if_the_peak_is_known():
    lines, clock = {}, Clock()
    metrics = DeferredMetrics(2, lambda step, values: lines.update({step: values}), clock, peak=1e9)
    numbers = {"loss": 1.0, "token_accuracy": 0.5, "tokens": 8.0, "grad_norm": 1.0, "param_norm": 2.0}
    for step in (1, 2, 3, 4):
        metrics.add(step, jax.tree.map(jnp.asarray, numbers), {"rationales": 3.0, "flops": 1e6})
        clock.now += step
    metrics.drain()
    assert metrics.devices_idle()
    assert (lines[4]["rationales"], lines[4]["flops"], lines[4]["tokens"]) == (6.0, 2e6, 16.0)
    # Update 3 is dispatched after 1 + 2 seconds, and only then the line of update 2 is written. The line of update 4
    # gets the other 3 + 4 seconds. Each line covers two updates.
    assert [line["seconds_per_step"] for line in lines.values()] == [1.5, 3.5]
    np.testing.assert_allclose(lines[4]["flops_per_second"], 2e6 / 7)
    np.testing.assert_allclose(lines[4]["rationales_per_second"], 6 / 7)
    np.testing.assert_allclose(lines[4]["mfu"], lines[4]["flops_per_second"] / 1e9)


class WideningBatches:
    """Batches of a new shape after every fourth batch."""

    def __init__(self):
        self.step = 0

    def __next__(self):
        self.step += 1
        return {"train": batch_of(4, R=6 + self.step // 4)}

    def get_state(self):
        return {"step": self.step}

    def set_state(self, state):
        self.step = state["step"]


def test_compile_time_of_new_shapes_does_not_count_in_rates(one_device, tmp_path):
    train(MODEL, None, WideningBatches(), settings(steps=8, log_every=2), tmp_path, one_device)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert len({row["seconds_compile"] for row in rows}) == 3
    updates = np.cumsum([2 * row["seconds_per_step"] for row in rows])  # a line covers log_every=2 updates
    assert all(updates <= [row["seconds_updates"] for row in rows])


def test_mfu_of_a_run_that_changed_devices():
    """100 operations in 2 s at a peak of 100 operations/s (MFU 0.5), then 300 in 1 s at a peak of 400 (MFU 0.75)."""
    lines = [{"flops": 100.0, "mfu": 0.5, "rationales": 5.0}, {"dev_accuracy": 0.1}, {"flops": 300.0, "mfu": 0.75}]
    found = summarize_cost(lines, {"goodput": 0.9, "seconds_updates": 10.0})
    assert found["mfu"] == round(400 / (200 + 400), 4)
    assert (found["rationales"], found["rationales_per_second"], found["goodput"]) == (5.0, 0.5, 0.9)
    assert "mfu" not in summarize_cost([{"flops": 1.0}], {"goodput": 0.9, "seconds_updates": 0.0})


def test_training_loop_returns_and_logs_time_by_category(one_device, tmp_path, monkeypatch):
    monkeypatch.setattr(accounting, "training_flops", lambda config, **sizes: 1000)
    monkeypatch.setattr(accounting, "peak_flops", lambda kind: 1e15)
    options = {"evaluate": lambda params, step: {"dev_accuracy": 0.5}}
    totals = train(MODEL, None, batches(4), settings(eval_every=6), tmp_path, one_device, **options)
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row]
    names = {"goodput", *(f"seconds_{name}" for name in ("updates", *CATEGORIES))}
    assert totals.keys() == names
    for row in rows:
        assert row.keys() >= names | {f"{name}_per_second" for name in ("tokens", "rationales", "flops")} | {"mfu"}
        assert row["rationales"] == row["flops"] / 1000 * 8  # four questions of two responses
    assert [row["seconds_compile"] for row in rows] == [rows[0]["seconds_compile"]] * len(rows)
    assert 0 < totals["goodput"] < 1
    for name in names - {"goodput"}:
        assert totals[name] >= rows[-1][name] >= rows[0][name] >= 0.0
    assert totals["seconds_lost"] == 0.0
    # The same run again makes no update, and its totals continue those of the file.
    again = train(MODEL, None, batches(4), settings(eval_every=6), tmp_path, one_device, **options)
    assert again["seconds_updates"] >= rows[-1]["seconds_updates"]


def test_profile_records_updates_and_changes_nothing_else(one_device, tmp_path):
    plain, profiled = tmp_path / "plain", tmp_path / "profiled"
    train(MODEL, None, batches(4), settings(), plain, one_device)
    train(MODEL, None, batches(4), settings(), profiled, one_device, profile=config.Profile(first=5, last=7))
    found = [load_params(folder / "checkpoints", MODEL.abstract()) for folder in (plain, profiled)]
    jax.tree.map(np.testing.assert_array_equal, *found)
    numbers = [
        [{k: v for k, v in row.items() if not is_time(k)} for row in read_metrics(folder / "metrics.jsonl")]
        for folder in (plain, profiled)
    ]
    assert numbers[0] == numbers[1]
    assert not (plain / "profile").exists()
    assert steps_of(profiled / "profile") == {5, 6, 7}


def steps_of(folder: Path) -> set[int]:
    """The steps in a profile, read as Perfetto reads it."""
    (trace,) = folder.rglob("*.trace.json.gz")
    assert list(trace.parent.glob("*.xplane.pb"))
    with gzip.open(trace) as file:
        events = json.load(file)["traceEvents"]
    return {int(event["args"]["step_num"]) for event in events if event.get("name") == "step" and "args" in event}


def test_profile_ends_with_the_items_or_with_the_generator(tmp_path):
    seen, waited = [], []
    for item in profile_steps("abcde", config.Profile(first=2), tmp_path / "a", wait=lambda: waited.append(len(seen))):
        seen.append(item)
    assert seen == list("abcde")
    assert waited == [2]  # right after the last recorded item
    assert steps_of(tmp_path / "a") == {2}
    with contextlib.closing(profile_steps("abc", config.Profile(first=1, last=9), tmp_path / "b", start=3)) as items:
        assert next(items) == "a"
    assert steps_of(tmp_path / "b") == {3}
    assert list(profile_steps("abc", config.Profile(first=5), tmp_path / "c")) == list("abc")
    assert not (tmp_path / "c").exists()
    with pytest.raises(InputError, match="profiles go to local disks only"):
        profile_steps("abc", config.Profile(first=1), "gs://bucket/run/profile")


@pytest.mark.parametrize("steps", [(-1,), (0, 3), (5, 4)])
def test_profile_without_steps_is_refused(steps):
    with pytest.raises(InputError, match=r"Profile.first: expected 1 <= first <= last"):
        config.Profile(*steps)
