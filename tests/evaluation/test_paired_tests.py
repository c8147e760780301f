"""Comparisons of arms on the same questions, compared with enumeration and formulas computed by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scotd_jax.evaluation.intervals import wilson_interval
from scotd_jax.evaluation.multiplicity import holm_correction
from scotd_jax.evaluation.outcome_tables import OutcomeTable
from scotd_jax.evaluation.paired_tests import compare_paired, mcnemar_mid_p, sign_flip_test, trend_test


def pair(both: int, only_a: int, only_b: int, neither: int, runs: int = 1) -> tuple[OutcomeTable, OutcomeTable]:
    a = np.repeat([1.0, 1.0, 0.0, 0.0], (both, only_a, only_b, neither))
    b = np.repeat([1.0, 0.0, 1.0, 0.0], (both, only_a, only_b, neither))
    clusters = np.arange(len(a))
    return OutcomeTable(np.tile(a, (runs, 1)), clusters), OutcomeTable(np.tile(b, (runs, 1)), clusters)


def newcombe(e: int, f: int, g: int, h: int) -> tuple[float, float]:
    """Newcombe (1998), method 10, from the counts of both right, only A, only B, both wrong."""
    n = e + f + g + h
    pa, la, ua = wilson_interval(e + f, n)
    pb, lb, ub = wilson_interval(e + g, n)
    margins = (e + f) * (g + h) * (e + g) * (f + h)
    cross = e * h - f * g
    phi = (max(cross - n / 2, 0) if cross > 0 else cross) / math.sqrt(margins) if margins else 0.0
    lower = (pa - la) ** 2 - 2 * phi * (pa - la) * (ub - pb) + (ub - pb) ** 2
    upper = (ua - pa) ** 2 - 2 * phi * (ua - pa) * (pb - lb) + (pb - lb) ** 2
    return pa - pb - math.sqrt(lower), pa - pb + math.sqrt(upper)


counts = st.integers(0, 25)


@settings(max_examples=80)
@given(counts, counts, counts, counts)
def test_interval_of_one_run_is_newcombes(e, f, g, h):
    if e + f + g + h > 1:
        found = compare_paired(*pair(e, f, g, h)).effect
        assert found.value == pytest.approx((f - g) / (e + f + g + h))
        low, high = newcombe(e, f, g, h)
        assert found[1:] == pytest.approx((max(-1, low), min(1, high)), abs=1e-6)


@pytest.mark.parametrize("counts", [(20, 0, 0, 0), (0, 0, 0, 20), (10, 0, 0, 10)])
@pytest.mark.parametrize("runs", [1, 3])
def test_interval_does_not_collapse_for_twenty_equal_outcomes(counts, runs):
    found = compare_paired(*pair(*counts, runs=runs))
    assert found.effect.value == 0.0
    assert found.effect.low < -0.05
    assert found.effect.high > 0.05
    assert found.p_value == 1.0


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_counts_the_observed_outcome_half(only_a, only_b):
    n = only_a + only_b
    observed = abs(only_a - only_b)
    weights = [math.comb(n, k) / 2**n for k in range(n + 1)]
    more = sum(w for k, w in enumerate(weights) if abs(2 * k - n) > observed)
    equal = sum(w for k, w in enumerate(weights) if abs(2 * k - n) == observed)
    expected = more + equal / 2 if observed else 1.0
    assert mcnemar_mid_p(only_a, only_b) == pytest.approx(expected)
    assert mcnemar_mid_p(only_a, only_b) <= stats.binomtest(only_a, n).pvalue + 1e-12 if n else True


def test_one_run_with_independent_questions_has_mcnemars_test():
    assert compare_paired(*pair(30, 14, 4, 12)).p_value == mcnemar_mid_p(14, 4)


def test_sign_flip_test_matches_the_enumeration_of_all_signs():
    sums = np.array([3.0, -1.0, 2.0, 2.0, 0.0, 1.0, -2.0, 4.0, 0.5])
    totals = np.array([abs(sums @ signs) for signs in itertools.product([-1, 1], repeat=len(sums))])
    expected = (totals > abs(sums.sum())).mean() + (totals == abs(sums.sum())).mean() / 2
    assert sign_flip_test(sums, draws=40_000) == pytest.approx(expected, abs=0.008)
    assert sign_flip_test(sums) == sign_flip_test(sums)  # same seed, same value
    assert sign_flip_test(np.zeros(3)) == 1.0
    mcnemar = sign_flip_test(np.repeat([1.0, -1.0, 0.0], (14, 4, 60)), draws=40_000)
    assert mcnemar == pytest.approx(mcnemar_mid_p(14, 4), abs=0.004)


def test_repeated_questions_of_a_cluster_add_no_evidence():
    (a, b) = pair(6, 9, 1, 4)
    clusters = np.repeat(a.clusters, 5)
    fivefold = [OutcomeTable(np.repeat(t.values, 5, axis=1), clusters) for t in (a, b)]
    once, often = compare_paired(a, b), compare_paired(*fivefold)
    assert often.p_value == pytest.approx(once.p_value, abs=0.005)
    assert often.effect.low == pytest.approx(once.effect.low, abs=0.04)
    independent = compare_paired(*(OutcomeTable(t.values, np.arange(100)) for t in fivefold))
    assert independent.p_value < 0.001 < 0.01 < often.p_value


def test_several_runs_are_tested_with_the_variance_between_runs():
    # A leads by 40, 0 and 20 points. A test over questions alone would reject; with three such runs nothing is certain.
    right = [(90, 50), (50, 50), (70, 50)]
    a, b = (np.array([[float(i < counts[k]) for i in range(100)] for counts in right]) for k in (0, 1))
    tables = [OutcomeTable(values, np.arange(100)) for values in (a, b)]
    found = compare_paired(*tables)
    assert found.effect.value == pytest.approx(0.2)
    assert found.effect.low < 0 < found.effect.high
    assert found.p_value > 0.1
    assert (found.questions, found.runs) == (100, 3)
    assert compare_paired(*(OutcomeTable(t.values.mean(axis=0)[None], t.clusters) for t in tables)).p_value < 0.001


def test_more_runs_on_the_same_questions_do_not_count_as_more_questions():
    once, thrice = compare_paired(*pair(6, 6, 2, 26)), compare_paired(*pair(6, 6, 2, 26, runs=3))
    assert thrice.effect == pytest.approx(once.effect, abs=0.01)
    assert thrice.p_value == pytest.approx(once.p_value, abs=0.05)


def test_trend_is_the_slope_over_ordered_arms():
    rng = np.random.default_rng(0)
    arms = [OutcomeTable((rng.random((1, 200)) < p).astype(float), np.arange(200)) for p in (0.3, 0.5, 0.6)]
    found = trend_test(arms)
    means = [arm.values.mean() for arm in arms]
    assert found.effect.value == pytest.approx(np.polyfit([1, 2, 3], means, 1)[0])
    assert found.effect.low > 0
    assert found.p_value < 0.001
    certain = trend_test([OutcomeTable(np.full((1, 3), value), np.arange(3)) for value in (0.0, 1.0, 1.0)])
    assert certain.effect.high == 0.5, "the slope of 0, 1/2 and 1 is the steepest one"
    flat = trend_test([arms[0], arms[2], arms[0]])
    assert flat.effect.value == pytest.approx(0.0)
    assert flat.p_value == 1.0
    two, difference = trend_test(arms[:2]), compare_paired(arms[1], arms[0])
    assert two.effect == pytest.approx(difference.effect)
    assert two.p_value == pytest.approx(difference.p_value, abs=0.005)


def test_holm_correction_matches_the_textbook_example():
    np.testing.assert_allclose(holm_correction([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm_correction([0.6, 0.9]) == [1.0, 1.0]
    assert holm_correction([]) == []
