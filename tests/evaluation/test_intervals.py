"""Intervals over questions and runs, compared with scipy, an analysis of variance and cases computed by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks import statistics
from scotd_jax.evaluation.intervals import accuracy_interval, effective_questions, wilson_interval
from scotd_jax.evaluation.outcome_tables import OutcomeTable, outcome_table, paired_tables
from scotd_jax.evaluation.two_level import mean_over_runs


def table(values, cluster_size: int = 1) -> OutcomeTable:
    values = np.atleast_2d(np.asarray(values, np.float64))
    return OutcomeTable(values, np.arange(values.shape[1]) // cluster_size)


def run(right: int, questions: int, name: str = "q") -> dict[str, float]:
    return {f"{name}{i}": float(i < right) for i in range(questions)}


@settings(max_examples=50)
@given(st.integers(1, 300), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_interval_matches_scipy(trials, data, confidence):
    successes = data.draw(st.integers(0, trials))
    ours = wilson_interval(successes, trials, confidence)
    theirs = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    np.testing.assert_allclose([ours.low, ours.high], [theirs.low, theirs.high], atol=1e-12)
    assert ours.value == successes / trials
    assert 0 <= ours.low <= ours.value <= ours.high <= 1
    assert accuracy_interval(outcome_table([run(successes, trials)]), confidence) == pytest.approx(ours)


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_interval_refuses_values_that_are_not_a_proportion(successes, trials):
    with pytest.raises(ValueError, match="not a proportion"):
        wilson_interval(successes, trials)


def test_variance_of_crossed_runs_is_that_of_a_two_way_analysis_of_variance():
    values = np.random.default_rng(0).random((4, 30)) < np.linspace(0.2, 0.9, 30) + np.array([[0.1], [0], [0], [-0.1]])
    values = values.astype(float)
    runs, questions, grand = 4, 30, values.mean()
    by_run, by_question = values.mean(axis=1), values.mean(axis=0)
    ms_runs = questions * ((by_run - grand) ** 2).sum() / (runs - 1)
    ms_questions = runs * ((by_question - grand) ** 2).sum() / (questions - 1)
    rest = values - by_run[:, None] - by_question + grand
    ms_error = (rest**2).sum() / ((runs - 1) * (questions - 1))
    found = mean_over_runs(table(values))
    assert found.mean == pytest.approx(grand)
    expected = (ms_runs + ms_questions - ms_error) / (runs * questions)
    assert found.variance == pytest.approx(expected)


def test_runs_with_their_own_questions_have_the_t_interval_of_their_accuracies():
    runs = [run(right, 50, f"world{i}/") for i, right in enumerate((30, 36, 39, 41))]
    found = mean_over_runs(outcome_table(runs))
    means = [sum(r.values()) / 50 for r in runs]
    assert found.df == 3
    assert found.variance == pytest.approx(stats.sem(means) ** 2)
    theirs = stats.ttest_1samp(means, 0.0)
    assert found.p_value() == pytest.approx(theirs.pvalue)
    half = found.quantile(0.95) * found.variance**0.5
    assert (found.mean - half, found.mean + half) == pytest.approx(tuple(theirs.confidence_interval(0.95)))


def test_interval_covers_both_questions_and_runs():
    # The variance between runs is added to that of the questions, not compared with it.
    agreeing = [run(60, 100)] * 3
    assert accuracy_interval(outcome_table(agreeing)) == pytest.approx(tuple(wilson_interval(60, 100)), abs=2e-3)
    apart = [run(right, 100) for right in (50, 60, 70)]
    between = stats.sem([0.5, 0.6, 0.7]) ** 2
    found = mean_over_runs(outcome_table(apart))
    assert found.variance > between + 0.5 * 0.24 / 100
    assert 2 <= found.df < 3
    low, high = accuracy_interval(outcome_table(apart))[1:]
    assert low < 0.40
    assert high > 0.80


def test_variance_of_clusters_is_that_of_their_totals():
    values = (np.random.default_rng(1).random(60) < 0.6).astype(float)
    found = mean_over_runs(table(values, cluster_size=3))
    totals = (values - values.mean()).reshape(20, 3).sum(axis=1)
    assert found.variance == pytest.approx(20 / 19 * (totals**2).sum() / 60**2)
    assert found.df == 19
    repeated = table(np.repeat(values, 3), cluster_size=3)  # the same question three times
    assert effective_questions(mean_over_runs(repeated), repeated) == pytest.approx(60, rel=0.02)


def test_intervals_do_not_collapse_if_all_outcomes_are_equal():
    for right in (0, 20):
        runs = [run(right, 20)] * 3
        low, high = accuracy_interval(outcome_table(runs))[1:]
        assert high - low > 0.15
    shares = accuracy_interval(outcome_table([dict.fromkeys(run(0, 20), 0.5)]))
    assert shares.high - shares.low > 0.3
    one = accuracy_interval(outcome_table([run(4, 4)], dict.fromkeys(run(0, 4), "one passage")))
    assert one.low < 0.05


def test_paired_tables_have_the_questions_of_both_arms():
    a, b = [run(3, 5), run(2, 5)], [run(1, 4), {"other": 1.0}]
    found = paired_tables([a, b])
    assert found is not None
    assert [t.values.tolist() for t in found] == [[[1, 1, 1, 0]], [[1, 0, 0, 0]]]  # the second runs share no question
    assert paired_tables([[run(1, 2, "x")], [run(1, 2, "y")]]) is None
    with pytest.raises(ValueError, match="at least one question"):
        outcome_table([run(1, 2), {}])


def test_simulated_coverage_and_size_are_near_their_levels():
    # A short form of `python -m benchmarks.statistics`, whose results are in benchmarks/results/statistics.json.
    coverage, size = statistics.simulate(statistics.Case(3, questions=64, cluster_size=2, run_sd=0.4), 250)
    assert min(coverage.values()) > 0.90
    assert max(size.values()) < 0.10
    assert max(coverage.values()) < 1.0
    assert min(size.values()) > 0.0
