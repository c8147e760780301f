"""Weights & Biases and MLflow, with stand-ins for their packages, which the tests do not need."""

import sys
import types

import pytest
from etils import epath

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.jobs.build import build
from scotd_jax.jobs.preparation import manifests
from scotd_jax.training.metric_services import metric_services
from scotd_jax.training.metrics import MetricWriter, read_metrics
from tests.helpers.corpora import make_run, question, responses, write_questions


class StandInForWandb(types.ModuleType):
    """Records the calls of wandb's interface; steps of a run with an explicit step may not decrease there."""

    def __init__(self):
        super().__init__("wandb")
        self.calls = []

    def init(self, **settings):
        self.calls.append(("init", settings))
        return self

    def define_metric(self, name, step_metric):
        self.calls.append(("define_metric", name, step_metric))

    def log(self, values):
        self.calls.append(("log", values))

    def finish(self):
        self.calls.append(("finish",))


class StandInForMlflow(types.ModuleType):
    """Records experiments and runs like MlflowClient; runs are shared by all clients."""

    def __init__(self):
        super().__init__("mlflow")
        self.experiments, self.runs = {}, {}
        self.entities = types.SimpleNamespace(Metric=lambda key, value, timestamp, step: (key, value, step))

    def MlflowClient(self):  # noqa: N802
        return self

    def get_experiment_by_name(self, name):
        return self.experiments.get(name)

    def create_experiment(self, name):
        self.experiments[name] = types.SimpleNamespace(experiment_id=f"e{len(self.experiments)}")
        return self.experiments[name].experiment_id

    def create_run(self, experiment_id, run_name):
        run_id = f"r{len(self.runs)}"
        self.runs[run_id] = {"experiment": experiment_id, "name": run_name, "metrics": [], "status": "RUNNING"}
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id))

    def update_run(self, run_id, status):
        self.runs[run_id]["status"] = status

    def log_batch(self, run_id, metrics):
        self.runs[run_id]["metrics"] += metrics

    def set_terminated(self, run_id):
        self.runs[run_id]["status"] = "FINISHED"


def write(folder, training: c.Training, restored: int, steps: dict[int, float]) -> None:
    with MetricWriter(folder / "metrics.jsonl", restored, metric_services(training, folder)) as writer:
        for step, loss in steps.items():
            writer.write(step, {"loss": loss})


def test_wandb_receives_every_line_and_a_resumed_training_continues_its_run(tmp_path, monkeypatch):
    wandb = StandInForWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    folder, training = tmp_path / "n30", c.Training(wandb="distillation")
    write(folder, training, 0, {1: 2.0, 2: 1.5})
    write(folder, training, 1, {2: 1.5})
    settings = [call[1] for call in wandb.calls if call[0] == "init"]
    assert [(s["project"], s["name"], s["resume"], s["dir"]) for s in settings] == [
        ("distillation", "n30", "allow", str(folder))
    ] * 2
    assert settings[0]["id"] == settings[1]["id"]
    assert [call[1] for call in wandb.calls if call[0] == "log"] == [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.5},
        {"step": 2, "loss": 1.5},
    ]
    assert ("define_metric", "*", "step") in wandb.calls
    assert wandb.calls[-1] == ("finish",)
    assert [row["step"] for row in read_metrics(folder / "metrics.jsonl")] == [1, 2]


def test_mlflow_receives_every_line_and_a_resumed_training_continues_its_run(tmp_path, monkeypatch):
    mlflow = StandInForMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    training = c.Training(mlflow="distillation")
    write(tmp_path / "n30", training, 0, {1: 2.0})
    write(tmp_path / "n30", training, 1, {2: 1.5})
    write(tmp_path / "n5", training, 0, {1: 3.0})
    assert mlflow.runs == {
        "r0": {
            "experiment": "e0",
            "name": "n30",
            "metrics": [("loss", 2.0, 1), ("loss", 1.5, 2)],
            "status": "FINISHED",
        },
        "r1": {"experiment": "e0", "name": "n5", "metrics": [("loss", 3.0, 1)], "status": "FINISHED"},
    }


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_missing_packages_are_named(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"training.{name} needs more packages .* extra '{name}' or set it to ''"):
        write(tmp_path, c.Training(**{name: "p"}), 0, {})


def test_services_are_off_by_default(tmp_path):
    assert metric_services(c.Training(), epath.Path(tmp_path)) == []


def test_services_are_not_part_of_the_identity_of_a_training(tmp_path):
    questions = [question(i) for i in range(4)]
    write_questions(tmp_path / "t", train=questions)
    run = make_run(tmp_path, c.Corpus(decontaminate=0), {"sampled": responses(questions, 2)})
    build(run, "c")
    training = manifests.student_identity(run, "s")["spec"]["training"]
    assert "tensorboard" in training  # recorded, but always as None
    assert not {"wandb", "mlflow"} & training.keys()
