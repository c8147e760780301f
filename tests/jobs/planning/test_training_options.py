"""Memory of updates with frozen parameters, LoRA and dropout."""

import dataclasses

import pytest

from scotd_jax import config as c
from scotd_jax.jobs.planning.workloads import TrainingWorkload
from scotd_jax.models import registry
from scotd_jax.models.registry import config_for
from tests.helpers.planned import (
    LABELS,
    TINY,
    first_workload,
    flatten,
    make_analyzer,
    small_config,
    with_settings,
    workloads_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unoptimized_code")]


@pytest.mark.parametrize("scan", ["on", "off"])
def test_frozen_parameters_count_as_weights_without_optimizer_state(scan):
    model_config = config_for("opt-tiny", TINY | {"num_hidden_layers": 4})
    sizes = {name: 4 * leaf.size for name, leaf in flatten(registry.build(model_config).abstract()).items()}

    def update(compile=False, **settings):
        workload = dataclasses.replace(first_workload(TrainingWorkload), model_config=model_config)
        workload = with_settings(workload, scan_layers=scan, **settings)
        return make_analyzer("cpu-2", 2).analyze(workload, c.Mesh(), compile=compile).programs[0]

    last = sum(size for name, size in sizes.items() if "layers/3/" in name)
    last_frozen = update(freeze=("layers/3/.*",)).bytes
    assert last_frozen["weights"] == sum(sizes.values())
    assert last_frozen["optimizer"] == pytest.approx(2 * (sum(sizes.values()) - last), rel=1e-3)
    others_frozen = update(compile=True, freeze=("embed/.*", "final_norm/.*", "layers/[0-2]/.*"))
    assert others_frozen.method == {"on": "compiled, scan over layers", "off": "compiled"}[scan]
    assert others_frozen.bytes["weights"] == sum(sizes.values())
    assert others_frozen.bytes["optimizer"] == pytest.approx(2 * last, rel=1e-2)
    assert 0 < others_frozen.bytes["inputs"] == update().bytes["inputs"], "the batch"


def test_merged_lora_kernels_and_their_gradients_are_temporary():
    model_config = config_for("opt-tiny", {"hidden_size": 128, "ffn_dim": 512, "num_hidden_layers": 4})
    workload = dataclasses.replace(first_workload(TrainingWorkload), model_config=model_config)
    workload = with_settings(workload, batch_size=2, scan_layers="on")
    lora = with_settings(workload, lora=c.LoRA(rank=2))
    analyzer, mesh = make_analyzer("cpu-2"), c.Mesh(fsdp=2)
    estimated, compiled = (analyzer.analyze(lora, mesh, compile=compile).programs[0].bytes for compile in (False, True))
    assert 0.8 < estimated["temporaries"] / compiled["temporaries"] < 1.7
    assert estimated["weights"] > analyzer.analyze(workload, mesh, compile=False).programs[0].bytes["weights"]


@pytest.mark.parametrize("settings", [{"freeze": ("layers/3/.*",)}, {"lora": c.LoRA(rank=2)}])
def test_frozen_and_merged_parameters_are_resident_during_dev_evaluation(settings):
    overrides = TINY | {"num_hidden_layers": 4}
    config = small_config(c.Model("opt-tiny", overrides, tokenizer="task:w"))
    student = config.students["n4"]
    student = dataclasses.replace(student, training=dataclasses.replace(student.training, **settings))
    config = dataclasses.replace(config, rationales={}, students={"n4": student}, corpora={"n4": LABELS})
    analyzer = make_analyzer("cpu-2")
    update, dev = (
        analyzer.analyze(workload, c.Mesh(), compile=False).programs[-1].bytes for workload in workloads_of(config)[:2]
    )
    params = flatten(registry.build(config_for("opt-tiny", overrides)).abstract())
    kernels = sum(4 * leaf.size for name, leaf in params.items() if name.endswith("/kernel"))
    merged = update["weights"] if "lora" in settings else 0
    assert dev["resident"] == kernels + merged + update["optimizer"]


def test_update_with_dropout_is_compiled_with_its_seed():
    workload = with_settings(first_workload(TrainingWorkload), dropout=0.1)
    update = make_analyzer("cpu-2").analyze(workload, c.Mesh(fsdp=2), compile=True).programs[0]
    assert update.method == "compiled"
