"""Costs of programs: compiled, extrapolated from shallow models, and estimated from shapes."""

import dataclasses

import pytest

from scotd_jax import config as c
from scotd_jax.jobs.planning.depth import num_layers, shallow_depths, with_layers
from scotd_jax.jobs.planning.duration import workload_seconds
from scotd_jax.jobs.planning.workloads import GenerationWorkload, TrainingWorkload
from scotd_jax.models.registry import config_for
from tests.helpers.exhaustive import repeat_for
from tests.helpers.planned import TINY, first_workload, make_analyzer, small_config, use_estimates, with_settings

pytestmark = pytest.mark.usefixtures("unoptimized_code")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "kind"),
    repeat_for(
        [("opt-tiny", TrainingWorkload), ("t5-tiny", GenerationWorkload)], kept=[("t5-tiny", GenerationWorkload)]
    ),
)
def test_extrapolation_from_shallow_models_matches_the_full_model(architecture, kind):
    workload = dataclasses.replace(first_workload(kind), model_config=with_layers(config_for(architecture), 3))
    assert num_layers(workload.model_config) == 3
    full, extrapolated = (
        make_analyzer("cpu-2", max_layers).analyze(workload, c.Mesh(fsdp=2), compile=True) for max_layers in (0, 2)
    )
    assert extrapolated.programs[-1].method == "compiled with 1 and 2 of 3 layers"
    for one, other in zip(full.programs, extrapolated.programs, strict=True):
        assert (one.name, one.flops) == (other.name, pytest.approx(other.flops, rel=1e-6))
        assert one.total == pytest.approx(other.total, rel=0.15)


def test_teacher_that_no_host_holds_is_planned_over_several_hosts():
    workload = dataclasses.replace(first_workload(GenerationWorkload), model_config=config_for("llama-3.1-70b"))
    shared = dataclasses.replace(workload, sampling_mesh=c.SamplingMesh(fsdp=2, tensor=8))
    sizes, analyzer = c.Mesh(data=1, fsdp=2, tensor=8), make_analyzer("v5e-16")
    weights, seconds = [], []
    for each in (workload, shared):
        analysis = analyzer.analyze(each, sizes, compile=False)
        weights.append(analysis.programs[-1].bytes["weights"])
        seconds.append(workload_seconds(analysis, analyzer.topology, c.Plan()))
    assert weights[0] == pytest.approx(4 * weights[1], rel=0.01), "four chips hold a copy, or sixteen"
    assert 0.9 < seconds[0] / seconds[1] < 1.1, "four copies of a quarter of the speed"
    wrong = dataclasses.replace(workload, sampling_mesh=c.SamplingMesh(tensor=3))
    assert "config.sampling_mesh" in analyzer.analyze(wrong, sizes, compile=False).problem


def test_shallow_models_have_whole_layers_in_every_stack():
    def t5(layers, decoder_layers):
        return config_for("t5-tiny", {"num_layers": layers, "num_decoder_layers": decoder_layers})

    assert shallow_depths(config_for("opt-1.3b")) == (1, 2)
    assert shallow_depths(config_for("opt-1.3b"), 5) == (2, 5)
    assert shallow_depths(t5(12, 4), 4) == (3, 6)
    assert shallow_depths(t5(6, 2), 4) == shallow_depths(t5(6, 5), 4) == (6,)
    assert with_layers(t5(12, 4), 6) == t5(6, 2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", [TrainingWorkload, GenerationWorkload])
def test_decoder_with_fewer_layers_than_its_encoder_is_extrapolated(kind):
    model = c.Model("t5-tiny", {"num_layers": 9, "num_decoder_layers": 3}, tokenizer="task:w")
    workload = first_workload(kind, small_config(model))
    analysis = make_analyzer("cpu-2", 4).analyze(workload, c.Mesh(), compile=True)
    assert analysis.programs[-1].method == "compiled with 3 and 6 of 9 layers"


@pytest.mark.slow
def test_estimated_memory_is_close_to_compiled_memory():
    model_config = config_for("opt-tiny", {"hidden_size": 128, "ffn_dim": 512})
    workload = dataclasses.replace(first_workload(TrainingWorkload), model_config=model_config)
    analyzer = make_analyzer("cpu-2")
    estimated = analyzer.analyze(workload, c.Mesh(), compile=False).programs[0]
    compiled = analyzer.analyze(workload, c.Mesh(), compile=True).programs[0]
    assert {**estimated.bytes, "temporaries": 0, "code": 0} == {**compiled.bytes, "temporaries": 0, "code": 0}
    assert 0.6 < estimated.bytes["temporaries"] / compiled.bytes["temporaries"] < 1.7
    assert estimated.flops == pytest.approx(compiled.xla_flops, rel=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", repeat_for(["opt-tiny", "t5-tiny"], kept=["opt-tiny"]))
def test_update_with_scan_over_layers_is_compiled_at_full_depth(architecture):
    workload = with_settings(first_workload(TrainingWorkload), scan_layers="on")
    workload = dataclasses.replace(workload, model_config=with_layers(config_for(architecture), 6))
    analyzer = make_analyzer("cpu-2", 2)
    estimated = analyzer.analyze(workload, c.Mesh(), compile=False).programs[0]
    compiled = analyzer.analyze(workload, c.Mesh(), compile=True).programs[0]
    assert compiled.method == "compiled, scan over layers"
    assert 0.6 < estimated.bytes["temporaries"] / compiled.bytes["temporaries"] < 1.7
    unrolled = analyzer.analyze(with_settings(workload, scan_layers="off"), c.Mesh(), compile=False).programs[0]
    assert compiled.flops == estimated.flops == unrolled.flops


@pytest.mark.slow
def test_prefill_memory_grows_with_layers_and_questions():
    teacher = dataclasses.replace(small_config().rationales["teacher"], few_shot=2)
    workload = first_workload(GenerationWorkload, small_config(rationales={"teacher": teacher}))
    workload = dataclasses.replace(workload, prompt_tokens=64, exemplar_tokens=256)
    analyzer = make_analyzer("cpu-4")

    def temporaries(layers, **axes):
        changed = dataclasses.replace(workload, model_config=with_layers(config_for("opt-tiny"), layers))
        programs = analyzer.analyze(changed, c.Mesh(**axes), compile=False).programs
        return {program.name: program.bytes["temporaries"] for program in programs}

    token = 2 * 64 * 2  # bytes of the key and value of one token in one layer
    growth = {name: size - temporaries(4)[name] for name, size in temporaries(6).items()}
    assert growth == {"load": 0, "few_shot": 2 * 256 * token, "prefill": 2 * 4 * 2 * 64 * token, "decode": 0}
    sharded = {name: size - temporaries(4, tensor=2)[name] for name, size in temporaries(6, tensor=2).items()}
    assert sharded["few_shot"] == growth["few_shot"] / 2
    assert sharded["prefill"] == growth["prefill"] / 4, "half of every key, and half as many questions per prefill"


@pytest.mark.slow
def test_remat_saves_memory_and_adds_flops():
    model_config = config_for("opt-tiny", TINY | {"num_hidden_layers": 4})
    workload = dataclasses.replace(first_workload(TrainingWorkload), model_config=model_config)

    def update(remat):
        changed = with_settings(workload, remat=remat)
        return make_analyzer("cpu-2").analyze(changed, c.Mesh(), compile=False).programs[0]

    plain, remat = update("none"), update("full")
    assert remat.bytes["temporaries"] < 0.8 * plain.bytes["temporaries"]
    assert 1.05 * plain.flops < remat.flops < 1.4 * plain.flops


def test_fsdp_shards_weights_and_optimizer_state(monkeypatch):
    use_estimates(monkeypatch)
    workload = first_workload(TrainingWorkload)
    analyzer = make_analyzer("h200-8", 4)
    replicated, sharded = (analyzer.analyze(workload, c.Mesh(fsdp=n), compile=True).programs[0] for n in (1, 8))
    assert replicated.method == "estimated from shapes"
    assert replicated.bytes["weights"] > 6 * sharded.bytes["weights"]
    assert replicated.bytes["optimizer"] > 6 * sharded.bytes["optimizer"]
    # The batch is so large that its activations exceed the gradients that micro-batches accumulate.
    one, two = (with_settings(workload, batch_size=1024, microbatches=n) for n in (1, 2))
    one, two = (analyzer.analyze(workload, c.Mesh(), compile=True).programs[0].total for workload in (one, two))
    assert two < one
