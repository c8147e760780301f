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
