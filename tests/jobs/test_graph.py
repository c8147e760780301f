"""The order of jobs follows from the references in the config, and wrong references are refused."""

import dataclasses

import pytest

from scotd_jax import config as c
from scotd_jax.config.eval_specs import eval_specs
from scotd_jax.errors import InputError
from scotd_jax.jobs.graph import JOBS, Step, chain, needs

TINY = c.Model(architecture="opt-tiny", tokenizer="task:w")


def world() -> c.Config:
    return c.Config(
        tasks={"w": c.Task()},
        rationales={
            "sampled": c.ModelSource(questions=("w.train",), model=c.Model(student="teacher")),
            "gold": c.TaskSource(questions=("w.gold",)),
        },
        corpora={"many": c.Corpus(rationales=("sampled",)), "stream": c.Corpus(rationales=("gold",))},
        students={
            "student": c.Student(model=TINY, corpus="many", dev_sets=("w.dev",), eval_sets=("w.test",), export=True),
            "teacher": c.Student(model=TINY, corpus="stream"),
        },
    )


def test_every_step_comes_after_its_dependencies():
    config = world()
    steps = chain(config)
    assert len(steps) == len(set(steps)) == 9
    for position, step in enumerate(steps):
        assert all(steps.index(needed) < position for needed in needs(config, step)), step
    assert steps[-1] == Step("report", "")


def test_only_the_requested_jobs():
    assert chain(world(), ("export",)) == [Step("export", "student")]
    assert {step.job for step in chain(world(), ("sample", "build"))} == {"sample", "build"}
    with pytest.raises(InputError, match="did you mean 'evaluate'"):
        chain(world(), ("evaluat",))
    assert set(JOBS) - {"score"} == {step.job for step in chain(world())}


def test_models_before_training_and_stored_responses_are_evaluated_first():
    evals = {
        "before": c.EvalSpec("student", ("w.test",), checkpoint="initial"),
        "teacher": c.EvalSpec(eval_sets=("w.gold",), responses="gold"),
    }
    config = dataclasses.replace(world(), evals=evals)
    steps = chain(config)
    assert steps.index(Step("evaluate", "teacher")) < steps.index(Step("evaluate", "student"))
    assert steps.index(Step("evaluate", "before")) < steps.index(Step("train", "student"))
    assert list(needs(config, Step("evaluate", "before"))) == []
    assert list(needs(config, Step("evaluate", "teacher"))) == [Step("sample", "gold")]
    later = dataclasses.replace(config.students["student"], model=c.Model(student="teacher"))
    config = dataclasses.replace(config, students=config.students | {"student": later})
    assert list(needs(config, Step("evaluate", "before"))) == [Step("train", "teacher")], "its initial model is trained"


def test_readings_are_inherited_where_a_local_model_can_compare_choices():
    """Evaluations without `read` use that of config.evaluation, unless they have no local model."""
    evals = {
        "before": c.EvalSpec("student", ("w.test",), checkpoint="initial"),
        "text": c.EvalSpec("student", ("w.test",), read="text"),
        "gold": c.EvalSpec(eval_sets=("w.gold",), responses="gold"),
        "sampled": c.EvalSpec(eval_sets=("w.train",), responses="sampled"),
    }
    config = dataclasses.replace(world(), evals=evals, evaluation=c.Evaluation(read="both"))
    found = {name: spec.read for name, spec in eval_specs(config).items()}
    assert found == {"student": "both", "before": "both", "text": "text", "gold": "text", "sampled": "both"}


def change(section: str, name: str, kind: type | None = None, **fields) -> c.Config:
    """Returns the config with changed `fields` of one entry, or with another entry in its place."""
    config = world()
    entries = getattr(config, section)
    entry = kind(**fields) if kind else dataclasses.replace(entries[name], **fields)
    return dataclasses.replace(config, **{section: entries | {name: entry}})


def evaluated(**fields) -> c.Config:
    """Returns the config with the evaluation "e" of the student."""
    return change("evals", "e", c.EvalSpec, **{"student": "student", "eval_sets": ("w.test",)} | fields)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            change("rationales", "gold", kind=c.ModelSource, model=c.Model(student="student")),
            "depend on each other in a cycle.*sample sampled",
        ),
        (change("students", "student", corpus="mamy"), "students.student.corpus: 'mamy' is not defined; .*'many'"),
        (change("students", "student", dev_sets=("w.dev", "w.test")), "may not choose the checkpoint"),
        (change("students", "student", eval_sets=("v.test",)), "'v' is not defined"),
        (change("students", "student", eval_sets=("test",)), "should be TASK.SPLIT"),
        (change("students", "student", model=c.Model()), "found none"),
        (change("students", "student", model=c.Model(architecture="opt-tiny")), "random weights needs one"),
        (change("students", "student", model=dataclasses.replace(TINY, student="teacher")), "architecture and student"),
        (change("corpora", "many", rationales=()), "needs rationales"),
        (
            change("rationales", "sampled", sampling=c.Sampling(n=0)),
            r"sampled.sampling.n: expected at least 1, found 0",
        ),
        (change("rationales", "gold", kind=c.ServerSource), r"gold.server.model: set the name of the model"),
        (
            change("rationales", "gold", kind=c.ServerSource, server=c.Server(model="m")),
            r"gold.server.url: expected http",
        ),
        (
            evaluated(checkpoint="initial", n=2),
            r"evals.e.n: has no effect on the evaluation of a model before training",
        ),
        (evaluated(checkpoint="initial", rationales_from=("gold",)), "evals.e.rationales_from: has no effect"),
        (evaluated(responses="gold"), "evals.e.student: has no effect on the evaluation of a set of responses"),
        (evaluated(student="", responses="golt"), "evals.e.responses: 'golt' is not defined; .*'gold'"),
        (evaluated(student="", responses="gold"), r"'w.test' is not in config.rationales.gold.questions; add it"),
        (evaluated(student="", responses="gold", read="both"), "from a task; set read='text'"),
        (evaluated(student="", responses="sampled", eval_sets=("w.train",), n=2), "'sampled', which has 1"),
        (evaluated(combine="marginal"), "evals.e.combine: 'marginal' sums over provided rationales"),
        (
            dataclasses.replace(
                change("corpora", "many", recipe="own"),
                recipes={"own": c.Recipe({"train": c.Part("{question}", "{gold}")})},
                evaluation=c.Evaluation(read="both"),
            ),
            "config.evaluation.read: for config.students.student: 'both' needs a recipe with a part",
        ),
        (evaluated(combine="marginal", read="both"), "compares the choices already; remove one of the two"),
        (
            dataclasses.replace(
                evaluated(student="", responses="gold", read="both"),
                rationales={"gold": c.ModelSource(("w.test",), TINY, think="strip")},
                corpora={},
                students={},
            ),
            "does not support think='strip'",
        ),
    ],
)
def test_wrong_references_are_refused_before_any_work(config, message):
    with pytest.raises(InputError, match=message):
        chain(config)
