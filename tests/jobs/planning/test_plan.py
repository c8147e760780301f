"""The plan job: plan.json, suggestions, refusals, and the command line."""

import dataclasses
import json

import jax
import pytest

from scotd_jax import config as c
from scotd_jax import main
from scotd_jax.errors import InputError
from scotd_jax.jobs.plan import plan
from scotd_jax.jobs.planning.analysis import Analyzer
from scotd_jax.jobs.planning.workloads import TrainingWorkload
from tests.helpers.cli import run_cli
from tests.helpers.planned import LABELS, MODEL, TINY, make_analyzer, small_config, use_estimates, workloads_of

pytestmark = pytest.mark.usefixtures("unoptimized_code")
BIG = c.Model(path="checkpoints/opt-6.7b")


@pytest.fixture(scope="module")
def small_plan(tmp_path_factory):
    """plan.json of the small config, compiled for four CPU devices."""
    folder = tmp_path_factory.mktemp("plan") / "run"
    plan(small_config(), str(folder))
    assert [file.name for file in folder.iterdir()] == ["plan.json"], "the plan writes nothing else"
    return json.loads((folder / "plan.json").read_text())


@pytest.mark.slow
def test_every_program_of_the_chain_is_compiled(small_plan):
    assert small_plan["compiled"]
    assert small_plan["fits"]
    assert small_plan["suggestions"] == []
    workloads = small_plan["workloads"]
    assert {workload["title"]: [p["name"] for p in workload["programs"]] for workload in workloads} == {
        "sample teacher": ["load", "prefill", "decode"],
        "train n4 and 1 more": ["update"],
        "dev n4": ["prefill", "decode"],
        "evaluate n4": ["load", "prefill", "decode"],
    }
    for workload in workloads:
        for program in workload["programs"]:
            assert program["total_bytes"] == sum(program["bytes"].values()) > 0
            if program["name"] != "load":
                assert program["method"] == "compiled"
                assert program["compile_seconds"] > 0
                assert program["seconds"] > 0


@pytest.mark.slow
def test_plan_counts_updates_and_responses(small_plan):
    amounts = {workload["title"]: workload["amount"] for workload in small_plan["workloads"]}
    assert amounts == {
        "sample teacher": "2,000 responses to 1,000 questions",
        "train n4 and 1 more": "1,200 updates",
        "dev n4": "256 responses to 256 questions",
        "evaluate n4": "1,000 responses to 1,000 questions",
    }
    assert all(workload["duration_hours"] > 0 for workload in small_plan["workloads"])
    assert any("1,000 questions in w.train" in note for note in small_plan["assumptions"]["notes"])


def test_paused_training_is_resident_during_dev_evaluation(small_plan):
    memory = {
        (workload["title"], program["name"]): program["bytes"]
        for workload in small_plan["workloads"]
        for program in workload["programs"]
    }
    update = memory["train n4 and 1 more", "update"]
    assert update["optimizer"] == pytest.approx(2 * update["weights"], rel=0.01)
    assert update["optimizer"] < memory["dev n4", "decode"]["resident"] < update["optimizer"] + update["weights"]
    assert memory["evaluate n4", "decode"]["resident"] == 0 < memory["evaluate n4", "load"]["resident"]


@pytest.mark.slow
def test_workload_that_does_not_fit_gets_a_suggestion_and_raises(tmp_path, capsys, monkeypatch):
    use_estimates(monkeypatch)
    with pytest.raises(InputError, match="train n4 and 1 more would not fit"):
        plan(small_config(BIG, "h200-8", rationales={}, **labels_only(BIG)), str(tmp_path))
    result = json.loads((tmp_path / "plan.json").read_text())
    assert not result["fits"]
    assert not result["compiled"]
    suggestion = next(suggestion for suggestion in result["suggestions"] if suggestion["job"] == "train")
    assert suggestion["flags"] == ["--config.mesh.fsdp=2"]
    assert suggestion["total"] <= 0.95 * result["topology"]["usable_bytes"]
    out = capsys.readouterr().out
    assert "train does not fit. It does (estimated" in out
    assert "--jobs=train\n    --config.mesh.fsdp=2" in out
    assert "JAX's CUDA plugin is not installed" in out
    assert "checkpoints/opt-6.7b is not a local folder: using the preset opt-6.7b" in out
    # The suggested mesh fits.
    plan(small_config(BIG, "h200-8", rationales={}, **labels_only(BIG), mesh=c.Mesh(fsdp=2)), str(tmp_path))
    assert json.loads((tmp_path / "plan.json").read_text())["fits"]


def labels_only(model):
    """Returns config fields with one corpus of labels for both students."""
    students = {name: dataclasses.replace(s, corpus="n4") for name, s in small_config(model).students.items()}
    return {"corpora": {"n4": LABELS}, "students": students}


@pytest.mark.slow
def test_larger_hardware_is_suggested_if_no_mesh_fits(tmp_path):
    config = small_config(MODEL, "v5e-8")
    teacher = dataclasses.replace(config.rationales["teacher"], model=c.Model(path="checkpoints/opt-66b"))
    with pytest.raises(InputError, match="sample teacher would not fit"):
        plan(dataclasses.replace(config, rationales={"teacher": teacher}), str(tmp_path))
    suggestion = json.loads((tmp_path / "plan.json").read_text())["suggestions"][0]
    assert suggestion["topology"].startswith(("v6e", "v5p")), "a v5e host has at most 128 GiB, the weights are 123 GiB"
    assert any(flag.startswith("--config.mesh.tensor=") for flag in suggestion["flags"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "flags"), [(c.Mesh(), ["tensor=2"]), (c.Mesh(data=1, fsdp=32), ["data=-1", "fsdp=1", "tensor=2"])]
)
def test_indivisible_batch_is_a_problem_with_a_suggestion(mesh, flags, tmp_path, capsys, monkeypatch):
    use_estimates(monkeypatch)
    with pytest.raises(InputError, match="train n4"):
        plan(small_config(topology="h200-32", mesh=mesh), str(tmp_path))
    out = capsys.readouterr().out
    assert "impossible: training.batch_size is 16" in out
    assert "h  in total, without impossible workloads, " in out
    result = json.loads((tmp_path / "plan.json").read_text())
    assert result["suggestions"][0]["flags"] == [f"--config.mesh.{flag}" for flag in flags]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (small_config(topology=""), "config.plan.topology: missing"),
        (small_config(topology="v5e-17"), "did you mean v5e-16 or v5e-32"),
        (small_config(mesh=c.Mesh(fsdp=3)), "fsdp=3, tensor=1 does not fit the 4 devices"),
        (small_config(c.Model(path="checkpoints/mine")), "checkpoints/mine/config.json: no such file"),
    ],
)
def test_unplannable_config_raises(config, message, tmp_path):
    with pytest.raises(InputError, match=message):
        plan(config, str(tmp_path))
    assert not list(tmp_path.iterdir())


def config_with_training(topology: str = "cpu-2", **changes) -> c.Config:
    """The small config with other training settings for n1."""
    config = small_config(topology=topology)
    student = config.students["n1"]
    student = dataclasses.replace(student, training=dataclasses.replace(student.training, **changes))
    return dataclasses.replace(config, students=config.students | {"n1": student})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            config_with_training(optimizer=c.Optimizer("adafactor", moments="bfloat16")),
            "optimizer.moments: adafactor keeps no",
        ),
        (config_with_training(freeze=("embd/.*",)), "training.freeze: 'embd/.*' matches no parameter"),
        (config_with_training(lora=c.LoRA(rank=64)), "training.lora.rank: 64 exceeds a side"),
        (
            config_with_training("cpu-2", attention="fused"),
            'training.attention: "fused" is for TPUs and GPUs.* are cpu',
        ),
    ],
)
def test_invalid_training_settings_raise_before_any_analysis(config, message, tmp_path, monkeypatch):
    monkeypatch.setattr(Analyzer, "analyze", lambda *_, **__: pytest.fail("a workload was analyzed"))
    with pytest.raises(InputError, match=f"config.students.n1: {message}"):
        plan(config, str(tmp_path))


def test_cycle_of_students_raises(tmp_path):
    first, second = small_config().students.values()
    cycle = {
        "n4": dataclasses.replace(first, model=c.Model(student="n1")),
        "n1": dataclasses.replace(second, model=c.Model(student="n4")),
    }
    with pytest.raises(InputError, match="train n4 -> train n1"):
        plan(small_config(students=cycle), str(tmp_path))


@pytest.mark.slow
def test_plan_on_the_command_line(tmp_path):
    flags = ["--config=configs/imdb.py:student=t5-small,responses=x", f"--workdir={tmp_path}/w", "--jobs=plan"]
    done = run_cli(*flags, "--config.plan.topology=h200-1")
    assert done.returncode == 0, done.stderr
    assert "on h200-1: 1 h200 devices on 1 host" in done.stdout
    assert "125.82 GiB usable of each chip, 90% of it (XLA_CLIENT_MEM_FRACTION)" in done.stdout
    assert "everything fits" in done.stdout
    assert [file.name for file in (tmp_path / "w").iterdir()] == ["plan.json"]
    done = run_cli(*flags, "--config.plan.topology=h100-3")
    assert done.returncode == 2
    assert "did you mean h100-2 or h100-4" in done.stderr
    with pytest.raises(InputError, match="--jobs=plan: runs alone"):
        main.run(c.plain(small_config()), str(tmp_path), ("plan", "train"), (), "")


@pytest.mark.compile
@pytest.mark.parametrize("topology", ["v5e-4", "h200-4", "h100-16"])
def test_plan_compiles_for_absent_devices(topology):
    analyzer = make_analyzer(topology)
    if analyzer.compile_obstacle:
        pytest.skip(analyzer.compile_obstacle)
    model = dataclasses.replace(MODEL, overrides=TINY | {"num_hidden_layers": 2})
    for workload in workloads_of(small_config(model)):
        with jax.debug_key_reuse(False):
            analysis = analyzer.analyze(workload, c.Mesh(fsdp=2, tensor=2), compile=True)
        assert analysis.fits, analysis.problem
        scan = ", scan over layers" if isinstance(workload, TrainingWorkload) else ""
        assert analysis.programs[-1].method == f"compiled{scan}"
        assert analysis.programs[-1].bytes["temporaries"] > 0
