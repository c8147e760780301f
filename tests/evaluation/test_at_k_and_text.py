"""pass@k against an enumeration of all subsets, and length and variety of rationales."""

import itertools

import pytest

from scotd_jax.evaluation.pass_at_k import pass_at_k
from scotd_jax.evaluation.rationale_text import describe_rationales, distinct_n
from scotd_jax.records import Response


@pytest.mark.parametrize("right", range(6))
@pytest.mark.parametrize("k", range(1, 6))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(right, k):
    samples = [True] * right + [False] * (5 - right)
    subsets = [any(subset) for subset in itertools.combinations(samples, k)]
    assert pass_at_k(right, 5, k) == pytest.approx(sum(subsets) / len(subsets))


@pytest.mark.parametrize(("right", "samples", "k"), [(1, 3, 0), (1, 3, 4), (4, 3, 1), (-1, 3, 1)])
def test_pass_at_k_refuses_impossible_counts(right, samples, k):
    with pytest.raises(ValueError, match="cannot draw"):
        pass_at_k(right, samples, k)


def test_distinct_n_counts_unique_pairs_within_texts():
    texts = [["a", "dog", "runs"], ["a", "dog", "sits"]]
    assert distinct_n(texts, 1) == 4 / 6
    assert distinct_n(texts, 2) == 3 / 4  # "runs a" is no pair of words
    assert distinct_n([["one"]], 2) is None


def test_rationales_are_described_over_the_set_and_per_question():
    def response(id_, index, rationale):
        return Response(id_, index, "", rationale, "a", True, "stop", -1.0, 4, "m", "")

    grouped = {
        "q0": [response("q0", 0, "A dog runs"), response("q0", 1, "a dog runs")],
        "q1": [response("q1", 0, "cats sleep"), response("q1", 1, None)],
        "q2": [response("q2", 0, " ")],
    }
    described = describe_rationales(grouped)
    assert described == {
        "n": 3,
        "mean_words": pytest.approx(8 / 3),
        "distinct_1": 5 / 8,
        "distinct_2": 3 / 5,
        "distinct_1_per_question": (1 / 2 + 1) / 2,
        "distinct_2_per_question": (1 / 2 + 1) / 2,
    }
    assert describe_rationales({"q2": grouped["q2"]}) is None
