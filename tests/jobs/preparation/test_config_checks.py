"""Checks of a config: seeds of its arms, the pairs that the report compares, mixtures of tasks."""

import dataclasses

import pytest

from scotd_jax import config as c
from scotd_jax.config.compared_arms import compared_arms
from scotd_jax.errors import FieldError, InputError
from scotd_jax.jobs.preparation.config_checks import check_config


def config(*comparisons: str, **changes) -> c.Config:
    """Returns a config with the arms "few" and "many" (two seeds) of one model, and "many" of a larger one."""
    small, large = (c.Model(architecture=name, tokenizer="task:t") for name in ("opt-125m", "opt-1.3b"))
    student = c.Student(small, "c", eval_sets=("t.test",))
    students = {
        "few": dataclasses.replace(student, arm="few"),
        "many_0": dataclasses.replace(student, arm="many"),
        "many_1": dataclasses.replace(student, arm="many", seed=1),
        "large": dataclasses.replace(student, arm="many", model=large),
    }
    students |= {name: dataclasses.replace(students[name], **fields) for name, fields in changes.items()}
    return c.Config(
        tasks={"t": c.Task("jsonl", path="t")},
        corpora={"c": c.Corpus("label", questions=("t.train",))},
        students=students,
        evaluation=c.Evaluation(comparisons=comparisons),
    )


def test_comparisons_are_pairs_of_arms():
    assert compared_arms(config("many vs few", "many vs many")) == [("many", "few"), ("many", "many")]
    check_config(config("many vs few"))


@pytest.mark.parametrize(
    ("comparisons", "message"),
    [
        (("many, few",), r"comparisons\[0\]: expected two arms, 'ARM vs OTHER', found 'many, few'"),
        (("many vs few vs few",), "expected two arms"),
        (("many vs ",), "expected two arms"),
        (("many vs few", "manny vs few"), r"comparisons\[1\]: 'manny' is not an arm; did you mean 'many'"),
        (("many vs few", "few vs many"), "'few vs many' is compared already"),
        (("few vs few",), "arm 'few' has one base model"),
    ],
)
def test_wrong_comparisons_are_refused(comparisons, message):
    with pytest.raises(InputError, match=message):
        check_config(config(*comparisons))


def test_runs_of_an_arm_have_different_seeds():
    check_config(config())
    with pytest.raises(
        InputError, match=r"'many_0' and 'many_1' are runs of arm 'many' with the same seed on 't.test'"
    ):
        check_config(config(many_1={"seed": 0}))
    check_config(config(many_1={"seed": 0, "eval_sets": ("t.contrast",)}))


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (
            {"t": 1.0, "u": 1.0},
            r"corpora.c.mixture: expected a share for each task of the corpus, t, but 'u' is not one",
        ),
        ({"u": 1.0}, "'t' is missing"),
        ({"t": 0.0}, r"mixture.t: expected a share above 0, found 0.0"),
        ({"t": float("inf")}, "found inf"),
    ],
)
def test_impossible_mixtures_are_refused(mixture, message):
    corpora = {"c": c.Corpus("label", questions=("t.train",), mixture=mixture)}
    with pytest.raises(InputError, match=message):
        check_config(dataclasses.replace(config(), corpora=corpora))


def test_max_responses_needs_responses():
    corpora = {"c": c.Corpus("label", questions=("t.train",), max_responses=5)}
    with pytest.raises(InputError, match=r"corpora.c.max_responses: the corpus has no rationales"):
        check_config(dataclasses.replace(config(), corpora=corpora))
    with pytest.raises(FieldError, match="at least 0"):
        c.Corpus(max_responses=-1)


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ({"cap": 2, "cap_by": "divers"}, "config.corpora.c.cap_by: 'divers' is not defined; did you mean 'diverse'"),
        ({"cap": 2, "cap_by": "rank_surprisal"}, "c.scored_by: .*compares scores under a student; name the student"),
        ({"cap": 2, "cap_by": "random", "scored_by": "few"}, "compares no scores under a student; remove it, or set"),
        ({"cap": 2, "cap_by": "student_likely", "scored_by": "fews"}, "'fews' is not defined; did you mean 'few'"),
        (
            {"cap": 2, "cap_by": "student_likely", "scored_by": "labels"},
            "recipe 'label', which has no rationale",
        ),
        ({"cap": 6, "cap_by": "random"}, "c.cap: 6 would select nothing, as no question has more than 5 responses"),
        ({"cap": 3, "cap_by": "random", "n": 2}, "no question has more than 2 responses"),
        ({"cap": 2, "recipe": "label", "rationales": (), "questions": ("t.train",)}, "c.cap: .*no rationales"),
    ],
)
def test_selections_that_select_nothing_are_refused(corpus, message):
    fields = {"rationales": ("sampled",)} | corpus
    teacher = c.ModelSource(questions=("t.train",), model=config().students["few"].model, sampling=c.Sampling(n=5))
    labels = c.Student(config().students["few"].model, "labels")
    corpora = {"c": c.Corpus(**fields), "labels": c.Corpus("label", questions=("t.train",))}
    students = config().students | {"labels": labels}
    run = dataclasses.replace(config(), rationales={"sampled": teacher}, corpora=corpora, students=students)
    with pytest.raises(InputError, match=message):
        check_config(run)
    corpora["c"] = c.Corpus(**fields | {"cap": 0, "cap_by": "first", "scored_by": ""})
    check_config(dataclasses.replace(run, corpora=corpora))


def test_curriculum_needs_responses_that_it_can_compare():
    training = c.Training(curriculum=True)
    with pytest.raises(InputError, match="students.few.training.curriculum: compares the responses .* 'c' has none"):
        check_config(config(few={"training": training}))
