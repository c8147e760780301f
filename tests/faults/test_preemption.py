"""SIGTERM costs no work: the update that is being made is saved, and the resumed run equals an undisturbed one."""

import contextlib
import functools
import json
import os
import signal

import jax
import numpy as np
import pytest

from scotd_jax import config as c
from scotd_jax import main, preemption, running
from scotd_jax.distributed import hosts
from scotd_jax.errors import InputError
from scotd_jax.training import save_timer
from scotd_jax.training.checkpoints import Checkpoints, best_step, load_params
from scotd_jax.training.loop import train
from scotd_jax.training.metrics import read_metrics
from scotd_jax.training.save_timer import SaveTimer
from scotd_jax.workdir import Workdir
from tests.helpers.training_fixtures import bag_model, batches, is_time

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("calls_are_not_retraced")]

MODEL = bag_model()
TRAINING = c.Training(
    steps=7,
    batch_size=4,
    log_every=3,
    eval_every=4,
    startup_check=False,
    optimizer=c.Optimizer(warmup_steps=1),
    save_minutes=15.0,
)


class TerminatingBatches:
    """Batches that send SIGTERM to this process when batch number `last` is taken."""

    def __init__(self, last: int):
        self._batches, self._left = batches(4), last
        self.get_state, self.set_state = self._batches.get_state, self._batches.set_state

    def __next__(self):
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return next(self._batches)


def lines(folder):
    return [{k: v for k, v in row.items() if not is_time(k)} for row in read_metrics(folder / "metrics.jsonl")]


class Evaluation:
    """An evaluation that records its steps, and sends SIGTERM to this process at one of them."""

    def __init__(self, terminated: int = 0):
        self.steps, self._terminated = [], terminated

    def __call__(self, params, step):
        if step == self._terminated:
            os.kill(os.getpid(), signal.SIGTERM)
        self.steps.append(step)
        return {"dev_accuracy": 1 / step}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, one_device):
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(MODEL, None, batches(4), TRAINING, folder, one_device, evaluate=Evaluation())
    return folder


def check_resumes_equal(uninterrupted, one_device, folder, step: int, evaluated: list[int]) -> None:
    """Asserts that a run saved this update, and that it ends with the evaluations and the end of an undisturbed one."""
    with Checkpoints(folder / "checkpoints") as checkpoints:
        assert checkpoints.latest == step, "no update is repeated"
    evaluation = Evaluation()
    train(MODEL, None, batches(4), TRAINING, folder, one_device, evaluate=evaluation)
    assert evaluated + evaluation.steps == [4, 7]
    found, expected = (load_params(f / "checkpoints", MODEL.abstract(), "last")[0] for f in (folder, uninterrupted))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert lines(folder) == lines(uninterrupted), "the line of metrics that was begun continues"
    assert best_step(folder / "checkpoints") == best_step(uninterrupted / "checkpoints")


@pytest.mark.parametrize("batch", [4, 5])
def test_training_saves_the_update_and_resumes_equal(uninterrupted, one_device, tmp_path, batch):
    evaluation = Evaluation()
    with pytest.raises(preemption.Preempted), preemption.handle_sigterm():
        train(MODEL, None, TerminatingBatches(batch), TRAINING, tmp_path, one_device, evaluate=evaluation)
    assert evaluation.steps == ([] if batch == 4 else [4]), "an evaluation that is due does not delay the end"
    check_resumes_equal(uninterrupted, one_device, tmp_path, batch, evaluation.steps)


@pytest.mark.parametrize("step", [4, 7])
def test_sigterm_ends_an_evaluation_which_the_resumed_run_makes_up_for(uninterrupted, one_device, tmp_path, step):
    evaluation = Evaluation(terminated=step)
    with pytest.raises(preemption.Preempted), preemption.handle_sigterm():
        train(MODEL, None, batches(4), TRAINING, tmp_path, one_device, evaluate=evaluation)
    assert evaluation.steps == ([] if step == 4 else [4]), "its end is not waited for"
    check_resumes_equal(uninterrupted, one_device, tmp_path, step, evaluation.steps)


def test_run_is_saved_when_its_last_checkpoint_is_too_old(uninterrupted, one_device, tmp_path, monkeypatch):
    minutes = iter(range(0, 10**6, 6 * 60))  # six minutes pass between two looks at the clock
    saved = []
    # Its numbers would become those of `preemption.is_requested`.
    monkeypatch.setattr("orbax.checkpoint.utils.reached_preemption", lambda step: pytest.fail("Orbax follows SIGTERM"))
    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, *rest: (saved.append(step), save(self, step, *rest)))
    timer = functools.partial(SaveTimer, clock=lambda: float(next(minutes)))
    monkeypatch.setattr("scotd_jax.training.loop.SaveTimer", timer)
    train(MODEL, None, batches(4), TRAINING, tmp_path, one_device, evaluate=Evaluation())
    assert saved == [3, 4, 7]
    assert lines(tmp_path) == lines(uninterrupted)


def test_several_processes_follow_the_clock_of_the_first_one(monkeypatch):
    looks = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(save_timer.hosts, "on_primary", lambda compute: (looks.append(1), compute())[1])
    timer = SaveTimer(1.0, 20, iter([0.0, 61.0, 61.0, 62.0]).__next__)
    assert [timer.is_due(step) for step in (1, 19, 20, 21)] == [False, False, True, False]
    assert len(looks) == 1
    assert not SaveTimer(0.0, 1).is_due(1)


def test_several_processes_follow_jax(monkeypatch):
    from jax.experimental import multihost_utils

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    numbers = []
    monkeypatch.setattr(
        multihost_utils, "reached_preemption_sync_point", lambda n: (numbers.append(n), len(numbers) == 5)[1]
    )
    assert [preemption.is_requested() for _ in range(6)] == [False, False, False, False, True, False]
    assert numbers == list(range(numbers[0], numbers[0] + 6)), "they increase, also from one training to the next"
    before = signal.getsignal(signal.SIGTERM)
    with preemption.handle_sigterm():
        assert signal.getsignal(signal.SIGTERM) is before, "JAX receives the signal"


def test_sigterm_before_the_first_step_ends_with_the_same_status(tmp_path, monkeypatch):
    """The launchers start a run again only after this status."""
    config = c.Config(tasks={"w": c.Task()}, rationales={"gold": c.TaskSource(questions=("w.gold",))})
    monkeypatch.setattr(Workdir, "save_config", lambda self, config: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(running.InterruptedRun, match="ended by SIGTERM before the first step; the same") as end:
        main.run(c.plain(config), str(tmp_path), ("sample",), (), "")
    assert end.value.status == running.PREEMPTED
    assert not (tmp_path / ".lock").read_text().strip(), "the lock is released"


def test_other_steps_end_at_once_with_the_documented_status(tmp_path, monkeypatch):
    config = c.Config(tasks={"w": c.Task()}, rationales={"gold": c.TaskSource(questions=("w.gold",))})
    monkeypatch.setattr("scotd_jax.jobs.load", lambda job: lambda context, name: os.kill(os.getpid(), signal.SIGTERM))
    before, disconnected = signal.getsignal(signal.SIGTERM), []
    monkeypatch.setattr(hosts, "disconnect", lambda: disconnected.append(True))
    with pytest.raises(running.InterruptedRun, match="ended by SIGTERM in step 1 of 1 .sample gold.: ") as end:
        main.run(c.plain(config), str(tmp_path), ("sample",), (), "")
    assert disconnected, "several processes wait for each other before they exit"
    assert end.value.status == running.PREEMPTED == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / ".lock").read_text().strip(), "the lock is released"
    assert json.loads((tmp_path / "config.json").read_text())


def test_sigterm_that_a_library_swallows_ends_the_run(tmp_path, monkeypatch):
    """Orbax once turned it into the error that a checkpoint is damaged, with exit status 2."""
    jobs = []

    def job(context, name, error: Exception | None):
        jobs.append(name)
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        if error:
            raise error

    rationales = {name: c.TaskSource(questions=("w.gold",)) for name in ("first", "second")}
    config = c.plain(c.Config(tasks={"w": c.Task()}, rationales=rationales))
    for error, where in ((InputError("damaged"), "in step 1 of 2 .sample first.: "), (None, "between two steps; ")):
        monkeypatch.setattr("scotd_jax.jobs.load", lambda name, error=error: lambda *step: job(*step, error))
        with pytest.raises(running.InterruptedRun, match=f"ended by SIGTERM {where}") as end:
            main.run(config, str(tmp_path), ("sample",), (), "")
        assert end.value.status == running.PREEMPTED
    assert jobs == ["first", "first"]
