"""Tests of what the report job reads from configs and artefacts; tests/reporting tests the page."""

import dataclasses

import pytest

from scotd_jax import config as c
from scotd_jax.jobs.context import make_context
from scotd_jax.jobs.report_parts import run_results
from scotd_jax.workdir import Workdir
from tests.helpers.corpora import MODEL, question, write_questions


def sampled(student: str) -> c.ModelSource:
    return c.ModelSource(("t.train",), c.Model(student=student))


@pytest.mark.parametrize(
    ("name", "role"),
    [("teacher", "teacher"), ("base", "base"), ("cascaded", "student"), ("first", "student"), ("second", "student")],
)
def test_students_that_generate_only_for_evaluation_are_no_teachers(tmp_path, name, role):
    # "cascaded" answers after its own rationales (CasCoD), "second" after those of "first".
    write_questions(tmp_path / "t", train=[question(0)])
    sources = {key: sampled(key) for key in ("teacher", "cascaded", "first")}
    infer = c.Corpus("infer", rationales=("teacher",))
    corpora = {"gold": c.Corpus("label", questions=("t.train",)), "scotd": c.Corpus(rationales=("teacher",))}
    students = {
        "teacher": c.Student(MODEL, "gold"),
        "base": c.Student(MODEL, "gold"),
        "cascaded": c.Student(c.Model(student="base"), "infer", rationales_from=("cascaded",)),
        "first": c.Student(MODEL, "scotd"),
        "second": c.Student(MODEL, "infer", rationales_from=("first",)),
    }
    students = {key: dataclasses.replace(student, eval_sets=("t.train",)) for key, student in students.items()}
    config = c.Config(
        tasks={"t": c.Task("jsonl", path=str(tmp_path / "t"))},
        rationales=sources,
        corpora=corpora | {"infer": infer},
        students=students,
    )
    context = make_context(config, Workdir(str(tmp_path / "run")))
    assert run_results._role(context, name) == role


def test_students_of_a_curve_share_all_settings_but_their_rationales_questions_and_model(tmp_path):
    write_questions(tmp_path / "t", train=[question(i) for i in range(9)])
    teacher = c.ModelSource(("t.train",), MODEL)
    sources = {
        "sampled": teacher,
        "half": dataclasses.replace(teacher, questions=("t.train@0/2",)),
        "greedy": dataclasses.replace(teacher, sampling=c.Sampling(temperature=0.0)),
    }
    corpora = {
        "all": c.Corpus(rationales=("sampled",)),
        "n5": c.Corpus(rationales=("sampled",), n=5),
        "half": c.Corpus(rationales=("half",), shards=2),
        "greedy": c.Corpus(rationales=("greedy",)),
        "wrong": c.Corpus(rationales=("sampled",), keep="wrong"),
        "labels": c.Corpus("label", questions=("t.train",)),
    }
    students = {name: c.Student(MODEL, name, c.Training(steps=10)) for name in corpora}
    students["all"] = dataclasses.replace(students["all"], training=c.Training(steps=20), seed=3)
    students["lora"] = c.Student(MODEL, "all", c.Training(lora=c.LoRA(rank=2)))
    tasks = {"t": c.Task("jsonl", path=str(tmp_path / "t"))}
    config = c.Config(tasks=tasks, rationales=sources, corpora=corpora, students=students)
    context = make_context(config, Workdir(str(tmp_path / "run")))
    curves = {name: run_results._curve(context, c.EvalSpec(name, ("t.train",), arm=name), "opt") for name in students}
    assert curves["all"] == curves["n5"] == curves["half"]
    assert len(set(curves.values())) == len(curves) - 2
    assert run_results._curve(context, c.EvalSpec("all"), "t5") != curves["all"]
    labels = {name: run_results._labels(context, student) for name, student in students.items()}
    assert labels["all"] == labels["labels"] == 9
    assert 0 < labels["half"] < 9
