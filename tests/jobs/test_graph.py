"""The order of jobs follows from what needs what."""

import dataclasses

import pytest

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.jobs.graph import JOBS, Step, chain, needs

TINY = c.Model(architecture="opt-tiny", tokenizer="task:w")


def world() -> c.Config:
    return c.Config(
        tasks={"w": c.Task()},
        rationales={
            "said": c.Rationales(questions=("w.train",), model=c.Model(student="teacher")),
            "gold": c.Rationales(source="task", questions=("w.gold",)),
        },
        corpora={"many": c.Corpus(rationales=("said",)), "stream": c.Corpus(rationales=("gold",))},
        students={
            "student": c.Student(model=TINY, corpus="many", dev_sets=("w.dev",), eval_sets=("w.test",), export=True),
            "teacher": c.Student(model=TINY, corpus="stream"),
        },
    )


def test_everything_comes_after_what_it_needs():
    config = world()
    steps = chain(config)
    assert len(steps) == len(set(steps)) == 9
    for position, step in enumerate(steps):
        assert all(steps.index(needed) < position for needed in needs(config, step)), step
    assert steps[-1] == Step("report", "")


def test_only_the_jobs_asked_for():
    assert chain(world(), ("export",)) == [Step("export", "student")]
    assert {step.job for step in chain(world(), ("sample", "build"))} == {"sample", "build"}
    with pytest.raises(InputError, match="did you mean 'evaluate'"):
        chain(world(), ("evaluat",))
    assert set(JOBS) == {step.job for step in chain(world())}


def change(section: str, name: str, **fields) -> c.Config:
    config = world()
    entries = getattr(config, section)
    return dataclasses.replace(config, **{section: entries | {name: dataclasses.replace(entries[name], **fields)}})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            change("rationales", "gold", source="model", model=c.Model(student="student")),
            "need each other.*sample said",
        ),
        (change("students", "student", corpus="mamy"), "students.student.corpus: 'mamy' is not defined; .*'many'"),
        (change("students", "student", dev_sets=("w.test",)), "may not choose the best"),
        (change("students", "student", eval_sets=("v.test",)), "'v' is not defined"),
        (change("students", "student", eval_sets=("test",)), "should be TASK.SPLIT"),
        (change("students", "student", model=c.Model()), "found none"),
        (change("students", "student", model=c.Model(architecture="opt-tiny")), "random weights needs one"),
        (change("students", "student", model=dataclasses.replace(TINY, student="teacher")), "architecture and student"),
        (change("corpora", "many", rationales=()), "needs rationales"),
    ],
)
def test_wrong_references_are_refused_before_any_work(config, message):
    with pytest.raises(InputError, match=message):
        chain(config)
