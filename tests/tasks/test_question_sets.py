"""Tests of names of question sets and of disjoint folds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scotd_jax.errors import InputError
from scotd_jax.tasks.question_sets import QuestionSet


def test_valid_names_are_parsed():
    assert QuestionSet.parse("arc.easy.train") == ("arc.easy", "train", 0, 1, False)
    assert QuestionSet.parse("csqa.train@2/5") == ("csqa", "train", 2, 5, False)
    assert QuestionSet.parse("csqa.train@!2/5") == ("csqa", "train", 2, 5, True)


@pytest.mark.parametrize("name", ["csqa", "csqa.train@", "csqa.train@1", "csqa.train@5/5", ".train", "csqa.train@a/5"])
def test_malformed_names_are_refused(name):
    with pytest.raises(InputError, match=r"config.x: '"):
        QuestionSet.parse(name, "config.x")


@pytest.mark.slow
@given(st.text(), st.integers(2, 7))
def test_every_question_is_in_exactly_one_fold(text, folds):
    inside = [QuestionSet.parse(f"t.s@{fold}/{folds}").contains(text) for fold in range(folds)]
    outside = [QuestionSet.parse(f"t.s@!{fold}/{folds}").contains(text) for fold in range(folds)]
    assert inside.count(True) == 1
    assert outside == [not each for each in inside]
    assert QuestionSet.parse("t.s").contains(text)


def test_copies_of_a_question_share_a_fold_and_folds_have_similar_sizes():
    folds = [QuestionSet.parse(f"t.s@{fold}/5") for fold in range(5)]
    texts = [f"What is {i} plus one?" for i in range(1000)]
    sizes = [sum(fold.contains(text) for text in texts) for fold in folds]
    assert all(150 < size < 250 for size in sizes)
    assert all(fold.contains("a  question") == fold.contains("a question ") for fold in folds)
