"""Where the time of a training goes: with clocks that the tests set, so nothing depends on how fast a machine is."""

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
from scotd_jax.jobs.graph import check
from scotd_jax.models import registry
from scotd_jax.models.api import Precision
from scotd_jax.training import accounting
from scotd_jax.training.accounting import PURPOSES, Spent, earlier, summary, work_of
from scotd_jax.training.checkpoints import load_params
from scotd_jax.training.loop import train
from scotd_jax.training.metrics import LateMetrics, read_metrics
from tests.helpers.training_fixtures import BagConfig, bag_model, batch_of, batches, is_time

pytestmark = pytest.mark.usefixtures("calls_are_not_retraced")
MODEL = bag_model()
ADAM = config.Optimizer(learning_rate=0.02, warmup_steps=2)


def settings(**changes):
    return config.Training(**{"steps": 12, "batch_size": 4, "optimizer": ADAM, "log_every": 4, **changes})


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_every_second_has_one_purpose():
    clock = Clock()
    spent = Spent(clock=clock)
    clock.now += 2
    with spent.on("compile"):
        clock.now += 5
    with spent.on("input", lambda: False):  # the devices were busy: no wait, part of an update
        clock.now += 1
    with spent.on("input", lambda: True):
        clock.now += 0.5
    with contextlib.suppress(ZeroDivisionError), spent.on("evaluation"):
        clock.now += 1.5
        _ = 1 / 0
    zero = dict.fromkeys(("checkpoint", "other", "lost"), 0.0)
    expected = {"updates": 3.0, "compile": 5.0, "input": 0.5, "evaluation": 1.5, **zero}
    assert spent.totals() == {"goodput": 0.3, **{f"seconds_{name}": value for name, value in expected.items()}}


def line(step: int, **seconds: float) -> dict[str, float]:
    return {"step": step, "goodput": 0.5, **{f"seconds_{n}": float(seconds.get(n, 0)) for n in ("updates", *PURPOSES)}}


def test_a_run_that_goes_on_counts_what_must_be_made_again_as_lost(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert earlier(path, 0) == {}
    rows = [line(5, updates=10, compile=3), {"step": 5, "dev_accuracy": 0.5}, line(10, updates=18, compile=3, input=2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = earlier(path, 5)
    assert before == dict.fromkeys(PURPOSES, 0.0) | {"updates": 10.0, "compile": 3.0, "input": 2.0, "lost": 8.0}
    assert earlier(path, 0)["lost"] == 18.0  # no checkpoint at all
    assert earlier(path, 10)["lost"] == 0.0
    clock = Clock()
    spent = Spent(before, clock)
    clock.now += 4
    with spent.on("checkpoint"):
        clock.now += 1
    found = spent.totals()
    assert (found["seconds_updates"], found["seconds_lost"], found["seconds_checkpoint"]) == (14.0, 8.0, 1.0)
    assert found["goodput"] == 14 / 28
    path.write_text('{"step": 5, "loss": 1.0}\n')  # a file without times
    assert earlier(path, 5) == {}


def test_work_is_that_of_the_arrays():
    model = registry.build(registry.config_for("opt-tiny"), Precision("float32"))
    batch = jax.tree.map(jnp.asarray, {"predict": batch_of(4, G=1, R=3), "explain": batch_of(4, G=3, R=6, P=5)})
    work = work_of(model.config, batch)
    shapes = (
        {"questions": 4, "group": 1, "prompt": 4, "response": 3},
        {
            "questions": 4,
            "group": 3,
            "prompt": 5,
            "response": 6,
        },
    )
    assert work == {"flops": sum(training_flops(model.config, **shape) for shape in shapes)}
    assert work_of(BagConfig(), batch) == {}


def test_a_line_adds_up_work_and_knows_mfu_where_the_peak_is_known():
    lines, clock = {}, Clock()
    metrics = LateMetrics(2, lambda step, values: lines.update({step: values}), clock, peak=1e9)
    numbers = {"loss": 1.0, "token_accuracy": 0.5, "tokens": 8.0, "grad_norm": 1.0}
    for step in (1, 2, 3, 4):
        metrics.add(step, jax.tree.map(jnp.asarray, numbers), {"rationales": 3.0, "flops": 1e6})
        clock.now += step
    metrics.drain()
    assert metrics.idle()
    assert (lines[4]["rationales"], lines[4]["flops"], lines[4]["tokens"]) == (6.0, 2e6, 16.0)
    # The line of update 2 is written when update 3 has been dispatched, after 1 + 2 seconds; 3 + 4 are left.
    assert [line["seconds_per_step"] for line in lines.values()] == [1.5, 3.5]
    np.testing.assert_allclose(lines[4]["flops_per_second"], 2e6 / 7)
    np.testing.assert_allclose(lines[4]["rationales_per_second"], 6 / 7)
    np.testing.assert_allclose(lines[4]["mfu"], lines[4]["flops_per_second"] / 1e9)


class Widening:
    """Batches of which every fourth begins a new shape."""

    def __init__(self):
        self.step = 0

    def __next__(self):
        self.step += 1
        return {"train": batch_of(4, R=6 + self.step // 4)}

    def get_state(self):
        return {"step": self.step}

    def set_state(self, state):
        self.step = state["step"]


def test_what_a_new_shape_takes_to_compile_is_in_no_rate(one_device, tmp_path):
    train(MODEL, None, Widening(), settings(steps=8, log_every=2), tmp_path, one_device)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert len({row["seconds_compile"] for row in rows}) == 3  # one shape after the other
    updates = np.cumsum([2 * row["seconds_per_step"] for row in rows])
    assert all(updates <= [row["seconds_updates"] for row in rows])


def test_mfu_of_a_run_that_changed_its_devices():
    """100 operations in 2 s on devices that can do 100 a second, 300 in 1 s where 400 are possible."""
    lines = [{"flops": 100.0, "mfu": 0.5, "rationales": 5.0}, {"dev_accuracy": 0.1}, {"flops": 300.0, "mfu": 0.75}]
    found = summary(lines, {"goodput": 0.9, "seconds_updates": 10.0})
    assert found["mfu"] == round(400 / (200 + 400), 4)
    assert (found["rationales"], found["rationales_per_second"], found["goodput"]) == (5.0, 0.5, 0.9)
    assert "mfu" not in summary([{"flops": 1.0}], {"goodput": 0.9, "seconds_updates": 0.0})


def test_the_loop_says_where_its_time_went(one_device, tmp_path, monkeypatch):
    monkeypatch.setattr(accounting, "training_flops", lambda config, **sizes: 1000)
    monkeypatch.setattr(accounting, "peak_flops", lambda kind: 1e15)
    options = {"evaluate": lambda params, step: {"dev_accuracy": 0.5}}
    spent = train(MODEL, None, batches(4), settings(eval_every=6), tmp_path, one_device, **options)
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row]
    names = {"goodput", *(f"seconds_{name}" for name in ("updates", *PURPOSES))}
    assert spent.keys() == names
    for row in rows:
        assert row.keys() >= names | {f"{name}_per_second" for name in ("tokens", "rationales", "flops")} | {"mfu"}
        assert row["rationales"] == row["flops"] / 1000 * 8  # four questions of two responses
    assert [row["seconds_compile"] for row in rows] == [rows[0]["seconds_compile"]] * len(rows)
    assert 0 < spent["goodput"] < 1
    for name in names - {"goodput"}:
        assert spent[name] >= rows[-1][name] >= rows[0][name] >= 0.0
    assert spent["seconds_lost"] == 0.0
    again = train(MODEL, None, batches(4), settings(eval_every=6), tmp_path, one_device, **options)  # nothing to do
    assert again["seconds_updates"] >= rows[-1]["seconds_updates"]


def test_updates_are_recorded_and_nothing_else_changes(one_device, tmp_path):
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    train(MODEL, None, batches(4), settings(), plain, one_device)
    train(MODEL, None, batches(4), settings(), watched, one_device, profile=config.Profile(first=5, last=7))
    found = [load_params(folder / "checkpoints", MODEL.abstract()) for folder in (plain, watched)]
    jax.tree.map(np.testing.assert_array_equal, *found)
    numbers = [
        [{k: v for k, v in row.items() if not is_time(k)} for row in read_metrics(folder / "metrics.jsonl")]
        for folder in (plain, watched)
    ]
    assert numbers[0] == numbers[1]
    assert not (plain / "profile").exists()
    assert steps_of(watched / "profile") == {5, 6, 7}


def steps_of(folder: Path) -> set[int]:
    """The steps that a recording has, read as Perfetto reads it."""
    (trace,) = folder.rglob("*.trace.json.gz")
    assert list(trace.parent.glob("*.xplane.pb"))
    with gzip.open(trace) as file:
        events = json.load(file)["traceEvents"]
    return {int(event["args"]["step_num"]) for event in events if event.get("name") == "step" and "args" in event}


def test_recordings_end_with_the_items_or_with_an_exception(tmp_path):
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


@pytest.mark.parametrize("profile", [config.Profile(-1), config.Profile(0, 3), config.Profile(5, 4)])
def test_a_profile_that_has_no_steps_is_refused(profile):
    with pytest.raises(InputError, match=r"config.profile: .* expected 1 <= first <= last"):
        check(config.Config(profile=profile))
