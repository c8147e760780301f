"""Win rates, the sign test and Krippendorff's alpha against published examples, enumeration and scipy."""

import itertools

import pytest
from scipy import stats

from scotd_jax.evaluation.agreement import krippendorff_alpha
from scotd_jax.evaluation.intervals import wilson_interval
from scotd_jax.evaluation.multiplicity import holm_correction
from scotd_jax.evaluation.preferences import majority_preference, sign_test, summarize_preferences

# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): two observers and binary values (section A), and
# four observers with missing values (section C); the published alphas are 0.095 and 0.743.
BINARY = ["0100000010", "1110010000"]
FOUR = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]


def units(observers: list[str]) -> list[list[str]]:
    return [[value for value in column if value != "."] for column in zip(*observers, strict=True)]


def alpha_by_enumeration(values: list[list[str]]) -> float:
    """The definition: 1 - D_o / D_e, as means over all ordered pairs of pairable values."""
    values = [unit for unit in values if len(unit) > 1]
    n = sum(map(len, values))
    observed = sum(sum(a != b for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1) for unit in values) / n
    every = [value for unit in values for value in unit]
    expected = sum(a != b for a, b in itertools.permutations(every, 2)) / (n * (n - 1))
    return 1 - observed / expected


@pytest.mark.parametrize(("observers", "published"), [(BINARY, 0.095), (FOUR, 0.743)])
def test_alpha_of_published_examples(observers, published):
    alpha = krippendorff_alpha(units(observers))
    assert alpha == pytest.approx(published, abs=5e-4)
    assert alpha == pytest.approx(alpha_by_enumeration(units(observers)), abs=1e-12)


def test_alpha_is_1_for_agreement_and_unknown_without_variation():
    assert krippendorff_alpha([["a", "a"], ["b", "b"], ["b"]]) == 1
    assert krippendorff_alpha([["a", "b"], ["b", "a"]]) == pytest.approx(-0.5)
    assert krippendorff_alpha([["a", "b"]]) == 0
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) is None
    assert krippendorff_alpha([["a"], [], ["b"]]) is None


def test_majority_is_of_those_who_prefer_one():
    assert majority_preference(["a", "tie", "tie"]) == "a"
    assert majority_preference(["a", "b", "b"]) == "b"
    assert majority_preference(["a", "b", "tie"]) == majority_preference(["tie"]) == "tie"


def test_sign_test_is_the_exact_binomial_test():
    assert sign_test(8, 2) == pytest.approx(2 * sum(stats.binom.pmf(k, 10, 0.5) for k in (8, 9, 10)))
    assert sign_test(2, 8) == sign_test(8, 2)
    assert sign_test(0, 0) == 1


def test_summaries_count_every_pair_once_and_correct_the_tests_as_one_family():
    choices = {f"a{i}": ["a", "a", "b"] for i in range(9)} | {"b": ["b"], "tie": ["a", "b"], "none": []}
    found = summarize_preferences(choices, {"all": list(choices), "some": ["a0", "a1", "tie"], "ties": ["tie"]}, 0.9)
    p_values = holm_correction([sign_test(9, 1), sign_test(2, 0), 1.0])
    assert found["all"] == (11, 9, 1, 1, wilson_interval(9, 10, 0.9), p_values[0])
    assert found["some"] == (3, 2, 1, 0, wilson_interval(2, 2, 0.9), p_values[1])
    assert found["ties"] == (1, 0, 1, 0, None, p_values[2])
    assert p_values[0] == pytest.approx(3 * sign_test(9, 1))
