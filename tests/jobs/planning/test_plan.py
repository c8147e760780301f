"""The plan job: what programs need and whether it fits, compiled for CPU devices or by arithmetic on shapes."""

import dataclasses
import importlib.util
import json

import jax
import pytest

from scotd_jax import config as c
from scotd_jax import main
from scotd_jax.distributed import topologies
from scotd_jax.errors import InputError
from scotd_jax.jobs.plan import plan
from scotd_jax.jobs.planning.assumptions import Assumed, layers_of, shallow, with_layers
from scotd_jax.jobs.planning.outcomes import Planner
from scotd_jax.jobs.planning.workloads import Speaking, Training, works
from scotd_jax.models.registry import config_for
from tests.helpers.cli import door
from tests.helpers.planned import LABELS, MODEL, TINY, chain, first


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """plan.json of the small chain, compiled for four CPU devices."""
    folder = tmp_path_factory.mktemp("plan") / "run"
    plan(chain(), str(folder))
    assert [file.name for file in folder.iterdir()] == ["plan.json"], "nothing else is made"
    return json.loads((folder / "plan.json").read_text())


def test_every_program_of_the_chain_is_compiled(small):
    assert small["compiled"]
    assert small["fits"]
    assert small["remedies"] == []
    assert {work["title"]: [p["name"] for p in work["programs"]] for work in small["works"]} == {
        "sample said": ["load", "read", "decode"],
        "train n4 and 1 more": ["update"],
        "dev n4": ["read", "decode"],
        "evaluate n4": ["load", "read", "decode"],
    }
    for work in small["works"]:
        for program in work["programs"]:
            assert program["total_bytes"] == sum(program["bytes"].values()) > 0
            if program["name"] != "load":
                assert program["how"] == "compiled"
                assert program["compile_seconds"] > 0
                assert program["seconds"] > 0


def test_work_is_counted(small):
    amounts = {work["title"]: work["amount"] for work in small["works"]}
    assert amounts == {
        "sample said": "2,000 samples of 1,000 questions",
        "train n4 and 1 more": "1,200 updates",
        "dev n4": "256 samples of 256 questions",
        "evaluate n4": "1,000 samples of 1,000 questions",
    }
    assert all(work["hours"] > 0 for work in small["works"])
    assert any("1,000 questions in w.train" in note for note in small["assumed"]["notes"])


def test_a_training_that_waits_lies_beside_its_dev_questions(small):
    of = {(work["title"], p["name"]): p["bytes"] for work in small["works"] for p in work["programs"]}
    update = of["train n4 and 1 more", "update"]
    assert update["optimizer"] == pytest.approx(2 * update["weights"], rel=0.01)
    assert update["optimizer"] < of["dev n4", "decode"]["beside"] < update["optimizer"] + update["weights"]
    assert of["evaluate n4", "decode"]["beside"] == 0 < of["evaluate n4", "load"]["beside"]


@pytest.mark.parametrize(("architecture", "kind"), [("opt-tiny", Training), ("t5-tiny", Speaking)])
def test_layers_are_added_in_proportion(architecture, kind):
    """What two shallow models tell of a deep one is what a deep one says of itself."""
    work = dataclasses.replace(first(kind), architecture=with_layers(config_for(architecture), 3))
    assert layers_of(work.architecture) == 3
    planners = (Planner(topologies.parse_topology("cpu-2"), layers, str) for layers in (0, 2))
    whole, parts = (planner.look(work, c.Mesh(fsdp=2), compile=True) for planner in planners)
    assert parts.programs[-1].how == "compiled with 1 and 2 of 3 layers"
    for one, other in zip(whole.programs, parts.programs, strict=True):
        assert (one.name, one.flops) == (other.name, pytest.approx(other.flops, rel=1e-6))
        assert one.total == pytest.approx(other.total, rel=0.15)


def test_shallow_models_have_whole_layers_in_every_stack():
    def uneven(layers, decoder):
        return config_for("t5-tiny", {"num_layers": layers, "num_decoder_layers": decoder})

    assert shallow(config_for("opt-1.3b")) == (1, 2)
    assert shallow(config_for("opt-1.3b"), 5) == (2, 5)
    assert shallow(uneven(12, 4), 4) == (3, 6)
    assert shallow(uneven(6, 2), 4) == shallow(uneven(6, 5), 4) == (6,)
    assert with_layers(uneven(12, 4), 6) == uneven(6, 2)


@pytest.mark.parametrize("kind", [Training, Speaking])
def test_a_decoder_may_have_fewer_layers_than_its_encoder(kind):
    model = c.Model("t5-tiny", {"num_layers": 9, "num_decoder_layers": 3}, tokenizer="task:w")
    outcome = Planner(topologies.parse_topology("cpu-2"), 4, str).look(
        first(kind, chain(model)), c.Mesh(), compile=True
    )
    assert outcome.programs[-1].how == "compiled with 3 and 6 of 9 layers"


def test_arithmetic_is_near_what_xla_needs():
    work = dataclasses.replace(
        first(Training), architecture=config_for("opt-tiny", {"hidden_size": 128, "ffn_dim": 512})
    )
    planner = Planner(topologies.parse_topology("cpu-2"), 0, str)
    guess = planner.look(work, c.Mesh(), compile=False).programs[0]
    found = planner.look(work, c.Mesh(), compile=True).programs[0]
    assert {**guess.bytes, "temporaries": 0, "code": 0} == {**found.bytes, "temporaries": 0, "code": 0}
    assert 0.6 < guess.bytes["temporaries"] / found.bytes["temporaries"] < 1.7
    assert guess.flops == pytest.approx(found.xla_flops, rel=0.25)


@pytest.mark.parametrize("architecture", ["opt-tiny", "t5-tiny"])
def test_a_training_in_loops_is_compiled_whole(architecture):
    work = first(Training)
    work = dataclasses.replace(
        work,
        architecture=with_layers(config_for(architecture), 6),
        settings=dataclasses.replace(work.settings, scan_layers="on"),
    )
    planner = Planner(topologies.parse_topology("cpu-2"), 2, str)
    guess = planner.look(work, c.Mesh(), compile=False).programs[0]
    found = planner.look(work, c.Mesh(), compile=True).programs[0]
    assert found.how == "compiled, its layers in a loop"
    assert 0.6 < guess.bytes["temporaries"] / found.bytes["temporaries"] < 1.7
    written_out = dataclasses.replace(work, settings=dataclasses.replace(work.settings, scan_layers="off"))
    other = planner.look(written_out, c.Mesh(), compile=False).programs[0]
    assert found.flops == guess.flops == other.flops


def test_what_is_read_is_counted_for_every_layer_and_question():
    config = chain(rationales={"said": dataclasses.replace(chain().rationales["said"], few_shot=2)})
    work = dataclasses.replace(first(Speaking, config), prompt=64, exemplars=256)
    planner = Planner(topologies.parse_topology("cpu-4"), 0, str)

    def temporaries(layers, **axes):
        changed = dataclasses.replace(work, architecture=with_layers(config_for("opt-tiny"), layers))
        programs = planner.look(changed, c.Mesh(**axes), compile=False).programs
        return {program.name: program.bytes["temporaries"] for program in programs}

    token = 2 * 64 * 2  # bytes of its key and value in one layer
    grown = {name: size - temporaries(4)[name] for name, size in temporaries(6).items()}
    assert grown == {"load": 0, "exemplars": 2 * 256 * token, "read": 2 * 4 * 2 * 64 * token, "decode": 0}
    split = {name: size - temporaries(4, tensor=2)[name] for name, size in temporaries(6, tensor=2).items()}
    assert split["exemplars"] == grown["exemplars"] / 2
    assert split["read"] == grown["read"] / 4, "half of every key, and two shards read two questions and not four"


def test_layers_that_are_computed_again_are_not_counted_as_kept():
    work = dataclasses.replace(first(Training), architecture=config_for("opt-tiny", TINY | {"num_hidden_layers": 4}))

    def update(remat):
        changed = dataclasses.replace(work, settings=dataclasses.replace(work.settings, remat=remat))
        return Planner(topologies.parse_topology("cpu-2"), 0, str).look(changed, c.Mesh(), compile=False).programs[0]

    plain, again = update("none"), update("full")
    assert again.bytes["temporaries"] < 0.8 * plain.bytes["temporaries"]
    assert 1.05 * plain.flops < again.flops < 1.4 * plain.flops


def test_what_shards_divide_is_divided():
    work = first(Training)
    planner = Planner(topologies.parse_topology("h200-8"), 4, str)
    whole, cut = (planner.look(work, c.Mesh(fsdp=n), compile=True).programs[0] for n in (1, 8))
    assert whole.how == "by arithmetic on shapes"
    assert whole.bytes["weights"] > 6 * cut.bytes["weights"]
    assert whole.bytes["optimizer"] > 6 * cut.bytes["optimizer"]
    # In a batch whose activations are more than the gradient, of which micro-batches need a second copy.
    one, two = (
        dataclasses.replace(work, settings=dataclasses.replace(work.settings, batch_size=1024, microbatches=n))
        for n in (1, 2)
    )
    one, two = (planner.look(each, c.Mesh(), compile=True).programs[0].total for each in (one, two))
    assert two < one


BIG = c.Model(path="checkpoints/opt-6.7b")


def test_what_does_not_fit_gets_a_remedy_and_exit_status_2(tmp_path, capsys):
    with pytest.raises(InputError, match="train n4 and 1 more would not fit"):
        plan(chain(BIG, "h200-8", rationales={}, **without_rationales(BIG)), str(tmp_path))
    said = json.loads((tmp_path / "plan.json").read_text())
    assert not said["fits"]
    assert not said["compiled"]
    remedy = next(each for each in said["remedies"] if each["job"] == "train")
    assert remedy["flags"] == ["--config.mesh.fsdp=2"]
    assert remedy["total"] <= 0.95 * said["topology"]["usable_bytes"]
    out = capsys.readouterr().out
    assert "train does not fit. It does (by arithmetic" in out
    assert "--jobs=train\n    --config.mesh.fsdp=2" in out
    assert "XLA compiles for GPUs only where there are some" in out
    assert "checkpoints/opt-6.7b is not here: the preset opt-6.7b stands for it" in out
    # and with the advice taken it fits
    taken = chain(BIG, "h200-8", rationales={}, **without_rationales(BIG), mesh=c.Mesh(fsdp=2))
    plan(taken, str(tmp_path))
    assert json.loads((tmp_path / "plan.json").read_text())["fits"]


def without_rationales(model):
    students = {name: dataclasses.replace(s, corpus="n4") for name, s in chain(model).students.items()}
    return {"corpora": {"n4": LABELS}, "students": students}


def test_where_no_mesh_helps_larger_hardware_is_named(tmp_path, capsys):
    teacher = c.Model(path="checkpoints/opt-66b")
    config = chain(MODEL, "v5e-8")
    said = dataclasses.replace(config.rationales["said"], model=teacher)
    with pytest.raises(InputError, match="sample said would not fit"):
        plan(dataclasses.replace(config, rationales={"said": said}), str(tmp_path))
    remedy = json.loads((tmp_path / "plan.json").read_text())["remedies"][0]
    assert remedy["topology"].startswith(("v6e", "v5p")), "hosts of v5e hold 128 GiB at most, the weights are 123"
    assert any(flag.startswith("--config.mesh.tensor=") for flag in remedy["flags"])


@pytest.mark.parametrize(
    ("mesh", "flags"), [(c.Mesh(), ["tensor=2"]), (c.Mesh(data=1, fsdp=32), ["data=-1", "fsdp=1", "tensor=2"])]
)
def test_a_batch_that_cannot_be_cut_is_a_problem_with_a_remedy(mesh, flags, tmp_path, capsys):
    with pytest.raises(InputError, match="train n4"):
        plan(chain(topology="h200-32", mesh=mesh), str(tmp_path))
    out = capsys.readouterr().out
    assert "cannot be: training.batch_size is 16" in out
    assert "h  in all, without what cannot be, " in out
    said = json.loads((tmp_path / "plan.json").read_text())
    assert said["remedies"][0]["flags"] == [f"--config.mesh.{flag}" for flag in flags]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (chain(topology=""), "config.plan.topology: on what?"),
        (chain(topology="v5e-17"), "did you mean v5e-16 or v5e-32"),
        (chain(mesh=c.Mesh(fsdp=3)), "fsdp=3, tensor=1 does not fit the 4 devices"),
        (chain(c.Model(path="checkpoints/mine")), "checkpoints/mine/config.json: no such file"),
    ],
)
def test_what_cannot_be_planned_is_said(config, message, tmp_path):
    with pytest.raises(InputError, match=message):
        plan(config, str(tmp_path))
    assert not list(tmp_path.iterdir())


def learning(topology: str = "cpu-2", **changes) -> c.Config:
    """The small chain, of which n1 learns in another way."""
    config = chain(topology=topology)
    student = config.students["n1"]
    student = dataclasses.replace(student, training=dataclasses.replace(student.training, **changes))
    return dataclasses.replace(config, students=config.students | {"n1": student})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (learning(optimizer=c.Optimizer("adafactor", moments="bfloat16")), "optimizer.moments: adafactor keeps no"),
        (learning(freeze=("embd/.*",)), "training.freeze: 'embd/.*' fits no parameter"),
        (learning(lora=c.LoRA(rank=64)), "training.lora.rank: 64 is more than a side"),
        (learning("h200-8", attention="fused"), 'training.attention: "fused" is for TPUs.* are cuda'),
    ],
)
def test_settings_that_fit_nowhere_are_said_at_once(config, message, tmp_path, monkeypatch):
    monkeypatch.setattr(Planner, "look", lambda *_, **__: pytest.fail("something was planned"))
    with pytest.raises(InputError, match=f"config.students.n1: {message}"):
        plan(config, str(tmp_path))


def test_students_that_start_from_each_other_are_said(tmp_path):
    first, second = chain().students.values()
    circle = {
        "n4": dataclasses.replace(first, model=c.Model(student="n1")),
        "n1": dataclasses.replace(second, model=c.Model(student="n4")),
    }
    with pytest.raises(InputError, match="these need each other.*train n4 -> train n1"):
        plan(chain(students=circle), str(tmp_path))


def test_at_the_door(tmp_path):
    flags = ["--config=configs/imdb.py:student=t5-small,said=x", f"--workdir={tmp_path}/w", "--jobs=plan"]
    done = door(*flags, "--config.plan.topology=h200-1")
    assert done.returncode == 0, done.stderr
    assert "on h200-1: 1 h200 devices on 1 host" in done.stdout
    assert "98.49 GiB usable of each chip, 75% of it (XLA_CLIENT_MEM_FRACTION)" in done.stdout
    assert "everything fits" in done.stdout
    assert [file.name for file in (tmp_path / "w").iterdir()] == ["plan.json"]
    done = door(*flags, "--config.plan.topology=h100-3")
    assert done.returncode == 2
    assert "did you mean h100-2 or h100-4" in done.stderr
    with pytest.raises(InputError, match="--jobs=plan: goes by itself"):
        main.run(c.plain(chain()), str(tmp_path), ("plan", "train"), (), "")


def test_compiles_for_a_tpu_that_is_not_there():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip(
            "libtpu is not installed: pip install -c constraints.txt -e '.[tpu]' into an environment of its own"
        )
    planner = Planner(topologies.parse_topology("v5e-4"), 0, str)
    model = dataclasses.replace(MODEL, overrides=TINY | {"num_hidden_layers": 2})
    for work in works(config := chain(model), Assumed(config)):
        with jax.debug_key_reuse(False):
            outcome = planner.look(work, c.Mesh(fsdp=2, tensor=2), compile=True)
        assert outcome.fits, outcome.problem
        loop = ", its layers in a loop" if isinstance(work, Training) else ""
        assert outcome.programs[-1].how == f"compiled{loop}"
