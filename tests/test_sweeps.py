"""Sweeps: a config with a run for every combination of values, whose runs share everything that no key affects."""

import dataclasses

import jax
import pytest

from scotd_jax import config as c
from scotd_jax import main
from scotd_jax.config.references import references
from scotd_jax.distributed.mesh import make_mesh
from scotd_jax.errors import InputError
from scotd_jax.jobs.graph import chain, needs
from scotd_jax.models import registry
from scotd_jax.models.api import Precision
from scotd_jax.sampling import compiled
from scotd_jax.training import programs
from tests.helpers.cli import ROOT

WORLD = c.sibling(str(ROOT / "configs" / "x"), "world").world(0, {"opt": ("label", "n1", "n5", "n30"), "t5": ("n30",)})
RATE = "students.n30_opt.training.optimizer.learning_rate"


def sweep(*arguments: str, config: c.Config = WORLD) -> c.Config:
    return c.sweep(config, c.parse_grid(arguments))


def added(swept: c.Config, section: str) -> list[str]:
    return [name for name in getattr(swept, section) if name not in getattr(WORLD, section)]


def test_corpora_are_shared_by_students_and_samples_by_corpora():
    swept = sweep("corpora.n30_opt.n=1,10,30", f"{RATE}=0.01,0.003")
    assert swept.rationales == WORLD.rationales
    assert added(swept, "corpora") == ["n30_opt-n_1", "n30_opt-n_10", "n30_opt-n_30"]
    assert len(added(swept, "students")) == 6
    student = swept.students["n30_opt-n_10-learning_rate_0_003"]
    assert (student.corpus, student.training.optimizer.learning_rate) == ("n30_opt-n_10", 0.003)
    assert student.arm == "SCoTD, N = 30, n = 10, learning_rate = 0.003"
    assert swept.corpora["n30_opt-n_10"] == dataclasses.replace(WORLD.corpora["n30_opt"], n=10)
    assert swept.columns["n30_opt-n_10-learning_rate_0_003"] == {"corpora.n30_opt.n": 10, RATE: 0.003}
    assert "n30_opt" not in swept.students
    assert [step for step in chain(swept) if step.job == "sample"] == [
        step for step in chain(WORLD) if step.job == "sample"
    ]


def test_model_before_training_is_evaluated_once_unless_the_model_is_swept():
    assert list(sweep(f"{RATE}=0.01,0.003", "corpora.n30_opt.n=1,5").evals) == list(WORLD.evals)
    assert len(sweep("students.n30_opt.model.overrides.hidden_size=32,64").evals) == len(WORLD.evals) + 1


def test_seed_repeats_everything_in_the_same_arms():
    swept = sweep("seed=0,2")
    for section in ("tasks", "rationales", "corpora", "students", "evals"):
        assert len(getattr(swept, section)) == 2 * len(getattr(WORLD, section))
    assert {student.arm for student in swept.students.values()} == {s.arm or "teacher" for s in WORLD.students.values()}
    seeds = swept.tasks["world-seed_2"].seed, swept.rationales["sampled-seed_2"], swept.students["teacher-seed_2"].seed
    assert (seeds[0], seeds[1].seed, seeds[2]) == (2, 2, 2)
    for section in ("rationales", "corpora", "students", "evals"):
        for name, entry in getattr(swept, section).items():
            if name.endswith("-seed_2"):
                named = {other for kind, other in references(entry) if kind != "recipes"}
                assert named, name
                assert all(other.endswith("-seed_2") for other in named), name
    chain(swept)


def test_seeds_of_students_share_everything_before_training():
    swept = sweep("students.n*_opt.seed=0,1,2")
    assert (swept.corpora, swept.rationales) == (WORLD.corpora, WORLD.rationales)
    arms = [student.arm for student in swept.students.values()]
    assert [arms.count(f"SCoTD, N = {n}") for n in (1, 5, 30)] == [3, 3, 3 + 1], "T5 is not swept"


def test_named_comparisons_and_claims_follow_their_arms():
    claims = {
        "one": c.Claim("one helps", comparisons=("SCoTD, N = 1 vs label only",), trend=("label only", "SCoTD, N = 1")),
        "five": c.Claim("five help", comparisons=("SCoTD, N = 5 vs label only",)),
    }
    evaluation = dataclasses.replace(WORLD.evaluation, comparisons=claims["one"].comparisons, claims=claims)
    swept = sweep("corpora.n1_opt.keep=correct,all", config=dataclasses.replace(WORLD, evaluation=evaluation))
    assert swept.evaluation.comparisons == (
        "SCoTD, N = 1, keep = correct vs label only",
        "SCoTD, N = 1, keep = all vs label only",
    )
    assert list(swept.evaluation.claims) == ["one-keep_correct", "five", "one-keep_all"]
    assert swept.evaluation.claims["five"] == claims["five"]
    swept_claim = swept.evaluation.claims["one-keep_all"]
    assert (swept_claim.text, swept_claim.trend) == (
        "one helps (keep = all)",
        ("label only", "SCoTD, N = 1, keep = all"),
    )
    chain(swept)


def test_key_of_a_corpus_that_one_value_does_not_use_makes_no_copies():
    swept = sweep("students.n30_opt.corpus=n30_opt,n5_opt", "corpora.n30_opt.keep=correct,all")
    assert len(added(swept, "students")) == 3


def test_values_are_literals_or_texts():
    arguments = ["a.b.c=1,2e-3,x y", "d.e.f=['w.train@0/5'],['w.train']", "g.h.i=True"]
    expected = {"a.b.c": [1, 0.002, "x y"], "d.e.f": [["w.train@0/5"], ["w.train"]], "g.h.i": [True]}
    assert c.parse_grid(arguments) == expected


def test_names_of_values_that_look_alike_differ():
    swept = sweep("corpora.n30_opt.questions=['world.train@0/5'],['world.train@!0/5']")
    assert added(swept, "corpora") == ["n30_opt-questions_0", "n30_opt-questions_1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x"], "expected KEY=VALUE,VALUE"),
        (["corpora.n30_opt.n="], "a value is empty"),
        (["corpora.n30_opt.n=1,,2"], "a value is empty"),
        (["corpora.n30_opt.n=1", "corpora.n30_opt.n=2"], "is swept already"),
        (["corpora.n30.n=1"], "config.corpora has no 'n30'; did you mean 'n30_"),
        (["corpora.n30_opt.nn=1"], "config.corpora.n30_opt.nn: unknown key; did you mean 'n'"),
        (["corpora.n30_opt=1"], "expected corpora.NAME.FIELD"),
        (["corpra.n30_opt.n=1"], "did you mean 'corpora'"),
        (["evaluation.limit=1,2"], "'evaluation' belongs to the whole run"),
        (["students.n30_opt.trainin.steps=1"], "config.students.n30_opt.trainin: unknown key; did you mean 'training'"),
        (["students.n30_opt.seed.x=1"], "'seed' has no fields"),
        (["students.n30_opt.arm=a,b"], "'arm' changes no result"),
        (["corpora.n30_opt.n=a"], "config.corpora.n30_opt.n: expected int, found 'a'"),
        ([f"{RATE}=1e-2,0.01"], "the value 0.01 comes twice"),
        ([f"{RATE}=1,1.0"], "the value 1.0 comes twice"),
        (["corpora.n30_opt.n=5,30,0"], "30 and 0 are the same run, because corpus 'n30_opt' has 30 responses"),
        (["seed=0.5"], "seed: expected integers, found 0.5"),
        (["students.n30_opt.seed=0,1", "students.n*.seed=2"], "both set config.students.n30_opt.seed"),
        (["seed=0,1", "students.n30_opt.seed=0,1"], "both set config.students.n30_opt.seed"),
        (["students.n30_opt.model.overrides={}", "students.n30_opt.model.overrides.ffn_dim=8"], "both set"),
        (["rationales.sampled.sampling.n=5,30"], "sweep corpora.NAME.n"),
        (["students.n30_opt.training.steps=0"], "config.students.n30_opt.training.steps: expected at least 1"),
    ],
)
def test_keys_and_values_that_make_no_run_are_refused(arguments, message):
    with pytest.raises(InputError) as error:
        sweep(*arguments)
    assert message in str(error.value)


def test_key_that_no_run_depends_on_is_refused():
    config = dataclasses.replace(WORLD, rationales=WORLD.rationales | {"spare": c.TaskSource(("world.gold",))})
    with pytest.raises(InputError, match="no student or evaluation depends on it"):
        sweep("rationales.spare.questions=['world.gold'],['world.train']", config=config)


def test_sweep_of_a_pushed_step_is_refused():
    config = dataclasses.replace(WORLD, push_to_hub={"export n30_opt": "me/model"})
    with pytest.raises(InputError, match="'export n30_opt' would be several"):
        sweep(f"{RATE}=0.1,0.2", config=config)


def test_columns_may_not_repeat_those_of_every_table():
    with pytest.raises(InputError, match="config.columns.n30_opt.accuracy: every results table has this column"):
        c.from_mapping(c.Config, {"columns": {"n30_opt": {"accuracy": 1}}})
    with pytest.raises(InputError, match="config.columns: 'n30_op' is not defined; did you mean 'n30_opt'"):
        chain(dataclasses.replace(WORLD, columns={"n30_op": {"width": 1}}))


def test_command_line_passes_the_swept_config():
    swept = main.swept_config(c.config_dict(WORLD), ["corpora.n30_opt.n=1,5"])
    assert c.from_mapping(c.Config, swept) == sweep("corpora.n30_opt.n=1,5")
    assert main.swept_config("unread", []) == "unread"


@pytest.mark.parametrize(
    "name", ["world", "world_scicot:seeds=1", "scotd:controls=1", "scicot", "world_claims:seeds=1"]
)
def test_references_include_everything_that_a_step_needs(name):
    """So that a sweep never shares an artefact that a key affects."""
    file, _, settings = name.partition(":")
    config = c.from_mapping(c.Config, c.sibling(str(ROOT / "configs" / "x"), file).get_config(settings or None))
    section = {
        "sample": "rationales",
        "score": "students",
        "build": "corpora",
        "train": "students",
        "evaluate": "evals",
    }
    for step in chain(config):
        entry = getattr(config, section.get(step.job, "evals")).get(step.name)
        if entry is not None and step.job != "score":  # needs what corpora select by it, each of which names both
            named = references(entry)
            if step.job == "evaluate":  # has the rationales of its student, unless it names others
                named |= references(config.students[entry.student]) if entry.student else set()
            assert {(section[needed.job], needed.name) for needed in needs(config, step)} <= named, step


def test_students_of_a_sweep_share_their_programs():
    swept = sweep("corpora.n30_opt.n=5,30", "students.n30_opt.seed=0,1", f"{RATE}=0.01,0.02")
    training, sampling = programs._cached_programs.cache_info, compiled._compiled.cache_info
    before = training().misses, sampling().misses
    mesh = make_mesh(c.Mesh(), jax.devices()[:1])
    students = [student for name, student in swept.students.items() if name.startswith("n30_opt-")]
    for student in students:
        # As the jobs do: every job builds the functions of its model anew.
        model = registry.build(registry.config_for(student.model.architecture, student.model.overrides), Precision())
        programs.training_programs(model, student.training, (("train", 1.0),), mesh)
        compiled.sampling_programs(model, swept.evaluation.sampling, (1,), 64, mesh)
    assert len(students) == 8
    assert training().misses - before[0] == 2, "one for each learning rate"
    assert sampling().misses - before[1] == 1
