"""What the plan job makes of ways of asking and of options of training."""

import dataclasses

import pytest

from scotd_jax import config as c
from scotd_jax.distributed import topologies
from scotd_jax.jobs.planning.assumptions import Assumed
from scotd_jax.jobs.planning.outcomes import Planner
from scotd_jax.jobs.planning.workloads import Training, works
from scotd_jax.models import registry
from scotd_jax.models.registry import config_for
from tests.helpers.planned import LABELS, SHORT, TINY, asked, chain, first, flat


def test_students_are_asked_after_the_examples_that_they_are_asked_with():
    config = chain(evals={"five": c.EvalSpec("n4", ("w.test",), few_shot=5)})
    corpus = dataclasses.replace(LABELS, few_shot=2, max_prompt_tokens=128 + 2 * 128)  # its examples are in it
    config = dataclasses.replace(config, corpora={**config.corpora, "n4": corpus})
    taught, five = (asked(config)[title] for title in ("evaluate n4", "evaluate five"))
    assert asked(config)["dev n4"].exemplars == taught.exemplars == 2 * 128
    assert five.exemplars == 5 * 128
    assert taught.prompt == five.prompt == 128
    planner = Planner(topologies.parse_topology("cpu-4"), 0, str)
    programs = planner.look(five, c.Mesh(), compile=False).programs
    assert [program.name for program in programs] == ["load", "exemplars", "read", "decode"]
    # An encoder reads examples and question together.
    whole = dataclasses.replace(config.students["n4"], model=c.Model("t5-tiny", tokenizer="task:w"))
    whole = asked(dataclasses.replace(config, students={"n4": whole}, rationales={}))
    assert [(work.exemplars, work.prompt) for work in whole.values()] == [(0, 384), (0, 384), (0, 768)]


def test_as_many_samples_are_counted_as_there_will_be():
    evaluation = c.Evaluation(sampling=dataclasses.replace(SHORT, n=3))
    config = chain(
        evaluation=evaluation, evals={"given": c.EvalSpec("n4", ("w.test",), rationales_from=("said",), n=4)}
    )
    samples = {title: (work.questions, work.samples) for title, work in asked(config).items()}
    assert samples["dev n4"] == (256, 256), "dev questions are answered once, twice in 600 updates"
    assert samples["evaluate n4 and 1 more"] == (1000 + 4000, 3000 + 4000), "once to each of four rationales"


@pytest.mark.parametrize(("architecture", "prompt"), [("opt-tiny", 32 + 128), ("t5-tiny", 192)])
def test_answers_that_are_compared_are_not_said(architecture, prompt):
    """An asking whose answers' probabilities are summed has a program of its own, of prompt and answers at once."""
    summed = c.EvalSpec("n4", ("w.test",), rationales_from=("said",), n=4, few_shot=1, combine="marginal")
    work = asked(chain(c.Model(architecture, tokenizer="task:w"), "cpu-2", evals={"sum": summed}))["evaluate sum"]
    assert (work.answers, work.questions, work.exemplars, work.prompt) == (5, 4000, 0, prompt)
    planner = Planner(topologies.parse_topology("cpu-2"), 0, str)
    guess, found = (planner.look(work, c.Mesh(fsdp=2), compile=it).programs for it in (False, True))
    assert [program.name for program in found] == ["load", "score"]
    assert 0.5 < guess[-1].bytes["temporaries"] / found[-1].bytes["temporaries"] < 2
    # XLA leaves out what nobody reads, a layer of OPT's prompt, and counts one position of answers.
    assert 0.9 < guess[-1].flops / found[-1].xla_flops < 1.6


@pytest.mark.parametrize("scan", ["on", "off"])
def test_frozen_parameters_are_weights_whichever_layer_they_are_in(scan):
    model = config_for("opt-tiny", TINY | {"num_hidden_layers": 4})
    sizes = {name: 4 * leaf.size for name, leaf in flat(registry.build(model).abstract()).items()}

    def update(compile=False, **settings):
        settings = dataclasses.replace(first(Training).settings, scan_layers=scan, **settings)
        work = dataclasses.replace(first(Training), architecture=model, settings=settings)
        return Planner(topologies.parse_topology("cpu-2"), 2, str).look(work, c.Mesh(), compile=compile).programs[0]

    last = sum(size for name, size in sizes.items() if "layers/3/" in name)
    upper = update(freeze=("layers/3/.*",)).bytes
    assert upper["weights"] == sum(sizes.values())
    assert upper["optimizer"] == pytest.approx(2 * (sum(sizes.values()) - last), rel=1e-3)
    lower = update(compile=True, freeze=("embed/.*", "final_norm/.*", "layers/[0-2]/.*"))
    assert lower.how == {"on": "compiled, its layers in a loop", "off": "compiled"}[scan]
    assert lower.bytes["weights"] == sum(sizes.values())
    assert lower.bytes["optimizer"] == pytest.approx(2 * last, rel=1e-2)
    assert 0 < lower.bytes["other"] == update().bytes["other"], "the batch"


def test_kernels_that_lora_makes_and_their_derivatives_are_temporary():
    settings = dataclasses.replace(first(Training).settings, batch_size=2, scan_layers="on")
    shape = {"hidden_size": 128, "ffn_dim": 512, "num_hidden_layers": 4}
    work = dataclasses.replace(first(Training), architecture=config_for("opt-tiny", shape), settings=settings)
    thin = dataclasses.replace(work, settings=dataclasses.replace(settings, lora=c.LoRA(rank=2)))
    planner = Planner(topologies.parse_topology("cpu-2"), 0, str)
    guess, found = (planner.look(thin, c.Mesh(fsdp=2), compile=it).programs[0].bytes for it in (False, True))
    assert 0.8 < guess["temporaries"] / found["temporaries"] < 1.7
    assert guess["weights"] > planner.look(work, c.Mesh(fsdp=2), compile=False).programs[0].bytes["weights"]


@pytest.mark.parametrize("settings", [{"freeze": ("layers/3/.*",)}, {"lora": c.LoRA(rank=2)}])
def test_what_is_frozen_waits_too_beside_what_lora_made_of_it(settings):
    shape = TINY | {"num_hidden_layers": 4}
    config = chain(c.Model("opt-tiny", shape, tokenizer="task:w"))
    student = config.students["n4"]
    student = dataclasses.replace(student, training=dataclasses.replace(student.training, **settings))
    config = dataclasses.replace(config, rationales={}, students={"n4": student}, corpora={"n4": LABELS})
    planner, todo = Planner(topologies.parse_topology("cpu-2"), 0, str), works(config, Assumed(config))
    update, dev = (planner.look(work, c.Mesh(), compile=False).programs[-1].bytes for work in todo[:2])
    params = flat(registry.build(config_for("opt-tiny", shape)).abstract())
    kernels = sum(4 * leaf.size for name, leaf in params.items() if name.endswith("/kernel"))
    made = update["weights"] if "lora" in settings else 0
    assert dev["beside"] == kernels + made + update["optimizer"]


def test_an_update_with_dropout_is_compiled_with_its_seed():
    work = first(Training)
    work = dataclasses.replace(work, settings=dataclasses.replace(work.settings, dropout=0.1))
    update = Planner(topologies.parse_topology("cpu-2"), 0, str).look(work, c.Mesh(fsdp=2), compile=True).programs[0]
    assert update.how == "compiled"
