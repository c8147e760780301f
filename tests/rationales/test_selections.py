"""Selections: each agrees with a slow reference, retains the budget, and is nested in the budget."""

import dataclasses
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scotd_jax.errors import InputError
from scotd_jax.keyed_random import random_sort_key
from scotd_jax.rationales.open_endedness import open_ended_caps, variety
from scotd_jax.rationales.selections import SELECTIONS, STUDENT_SELECTIONS, select
from scotd_jax.rationales.student_scores import StudentScores, rank_surprisal_ratio, sentences
from scotd_jax.rationales.text_clusters import cluster, cluster_texts, ngram_vectors
from scotd_jax.rationales.words import words
from scotd_jax.records import Response

GOOD = Response("q", 0, "because. a", "because", "a", True, "stop", -1.0, 3, "m", "s")


def response(k: int, **fields) -> Response:
    return dataclasses.replace(GOOD, sample_index=k, **fields)


def indices(rows) -> list[int]:
    return [row.sample_index for row in rows]


# References: each picks one response after the other from those that are left, by brute force.


def pick(rows, cap, best):
    """Repeatedly moves the response at the position that `best` returns, given the rest and those picked before."""
    left, picked = sorted(rows, key=lambda row: row.sample_index), []
    while len(picked) < cap:
        picked.append(left.pop(best(left, picked)))
    return picked


def argmin(values) -> int:
    values = list(values)
    return values.index(min(values))


def length(row) -> int:
    return len(words(row.rationale))


def length_quantiles_reference(rows, cap):
    """The response whose rank of length is farthest from the ranks of those picked before."""
    ranked = sorted(rows, key=lambda row: (length(row), row.sample_index))
    rank = {row.sample_index: i for i, row in enumerate(ranked)}
    start = [(len(rows) - 1) // 2, 0, len(rows) - 1]

    def best(left, picked):
        for i in start:
            if ranked[i] not in picked:
                return left.index(ranked[i])
        by_rank = sorted(left, key=lambda row: rank[row.sample_index])
        distances = [min(abs(rank[row.sample_index] - rank[p.sample_index]) for p in picked) for row in by_rank]
        return left.index(by_rank[distances.index(max(distances))])

    return pick(rows, cap, best)


def length_mix_reference(rows, cap):
    def best(left, picked):
        lengths = [(length(row), row.sample_index) for row in left]
        return lengths.index(max(lengths)) if len(picked) in (1, 6, 11, 16) else argmin(lengths)

    return pick(rows, cap, best)


def teacher_mix_reference(rows, cap):
    """The teacher with the fewest picks so far; of those the one whose first sample comes first."""
    in_order = sorted(rows, key=lambda row: row.sample_index)

    def best(left, picked):
        first = {row.model: in_order.index(row) for row in reversed(in_order)}
        return argmin((sum(p.model == row.model for p in picked), first[row.model], row.sample_index) for row in left)

    return pick(rows, cap, best)


def clusters_reference(distances, count):
    """Merges the two clusters with the smallest mean distance until `count` are left."""
    clusters = [{i} for i in range(len(distances))]
    while len(clusters) > count:
        pairs = [(one, other) for i, one in enumerate(clusters) for other in clusters[:i]]
        means = [sum(distances[a][b] for a in one for b in other) / len(one) / len(other) for one, other in pairs]
        one, other = pairs[means.index(min(means))]
        clusters = [each for each in clusters if each not in (one, other)] + [one | other]
    return {frozenset(each) for each in clusters}


def diverse_reference(rows, cap):
    """The response with the smallest random key of each cluster."""
    by_index = sorted(rows, key=lambda row: row.sample_index)
    labels = cluster_texts([row.rationale for row in by_index], cap)
    members = [[row for row, label in zip(by_index, labels, strict=True) if label == each] for each in set(labels)]
    return [min(group, key=lambda row: random_sort_key("cap", *row.key)) for group in members]


REFERENCES = {
    "first": lambda rows, cap: pick(rows, cap, lambda left, _: 0),
    "random": lambda rows, cap: pick(
        rows, cap, lambda left, _: argmin(random_sort_key("cap", "q", r.sample_index) for r in left)
    ),
    "likely": lambda rows, cap: pick(
        rows, cap, lambda left, _: argmin((-r.logprob / r.num_tokens, r.sample_index) for r in left)
    ),
    "open_ended": lambda rows, cap: pick(rows, cap, lambda left, _: 0),
    "diverse": diverse_reference,
    "shortest": lambda rows, cap: pick(rows, cap, lambda left, _: argmin((length(r), r.sample_index) for r in left)),
    "longest": lambda rows, cap: pick(rows, cap, lambda left, _: argmin((-length(r), -r.sample_index) for r in left)),
    "length_quantiles": length_quantiles_reference,
    "length_mix": length_mix_reference,
    "teacher_mix": teacher_mix_reference,
}

many_rows = st.lists(
    st.fixed_dictionaries(
        {
            "rationale": st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12).map(" ".join),
            "logprob": st.floats(-20, -0.5),
            "num_tokens": st.integers(1, 9),
            "model": st.sampled_from(["m1", "m2", "m3"]),
        }
    ),
    min_size=1,
    max_size=20,
)


def test_every_selection_has_a_reference():
    assert set(REFERENCES) == set(SELECTIONS)


@pytest.mark.parametrize("name", SELECTIONS)
@given(many=many_rows, cap=st.integers(1, 20), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_selection_agrees_with_its_reference_in_any_order(name, many, cap, seed):
    rows = [response(2 * k, **fields) for k, fields in enumerate(many)]
    shuffled = random.Random(seed).sample(rows, len(rows))
    selected = select(name, shuffled, cap)
    if cap < len(rows):
        assert sorted(indices(selected)) == indices(selected)
        assert sorted(indices(REFERENCES[name](rows, cap))) == indices(selected)
    else:
        assert selected == shuffled
    larger = indices(select(name, rows, cap + 1))
    assert set(indices(selected)) <= set(larger), "a smaller budget selects a part of what a larger one selects"
    assert len(selected) == min(cap, len(rows))


@given(st.integers(2, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_clusters_merge_the_nearest_pair_first(size, count, seed):
    distances = np.random.default_rng(seed).random((size, size))  # continuous, so that no two are equal
    distances = distances + distances.T
    count = min(count, size)
    labels = cluster(distances, count)
    found = {frozenset(i for i, label in enumerate(labels) if label == each) for each in labels}
    assert found == clusters_reference(distances, count)


def test_texts_are_compared_by_words_and_pairs_of_words():
    vectors = ngram_vectors(["a b", "B, a!", "c", "..."])
    similarities = vectors @ vectors.T
    assert math.isclose(similarities[0, 1], 2 / 3)  # two words of two words and one pair
    assert similarities[0, 2] == 0
    assert similarities[3].tolist() == [0, 0, 0, 0]
    labels = cluster_texts(["the wind blows hard", "the wind blows so hard", "rust is slow", "rust is very slow"], 2)
    assert labels[0] == labels[1] != labels[2] == labels[3]


def test_diverse_takes_one_of_each_of_three_texts():
    rows = [response(k, rationale=["x y z", "u v w", "r s t"][k % 3]) for k in range(9)]
    assert {k % 3 for k in indices(select("diverse", rows, 3))} == {0, 1, 2}


def test_lengths_are_spread_over_the_quantiles_and_mixed_four_to_one():
    rows = [response(k, rationale=" ".join("a" * (k + 1))) for k in range(9)]
    assert indices(select("length_quantiles", rows, 3)) == [0, 4, 8]
    assert indices(select("length_quantiles", rows, 5)) == [0, 2, 4, 6, 8]
    assert indices(select("length_mix", rows, 5)) == [0, 1, 2, 3, 8]
    assert indices(select("longest", rows, 2)) == [7, 8]


def test_teachers_have_equal_shares():
    rows = [response(k, model="large" if k < 6 else "small") for k in range(9)]
    assert indices(select("teacher_mix", rows, 4)) == [0, 1, 6, 7]
    assert indices(select("teacher_mix", rows, 8)) == [0, 1, 2, 3, 4, 6, 7, 8]


@pytest.mark.parametrize("fields", [{"logprob": 0.0}, {"num_tokens": 0}, {"logprob": float("nan")}])
def test_likelihood_of_the_teacher_needs_log_probabilities(fields):
    with pytest.raises(InputError, match="sample 1 of question 'q' has no log-probability.*use cap_by='first'"):
        select("likely", [response(0), response(1, **fields)], 1)


def test_open_ended_questions_get_more_of_an_equal_mean():
    assert open_ended_caps([50, 10, 30, 20, 40], 5) == [9, 1, 5, 3, 7]
    caps = open_ended_caps(list(range(100)), 5)
    assert sum(caps) / 100 == 5
    assert caps == sorted(caps)
    assert open_ended_caps([7, 7], 1) == [1, 1], "a question retains at least one response"
    assert variety([response(0, rationale="a b a b"), response(1, rationale="A, b c")]) == 3  # ab, ba, bc


FIELDS = {  # selection -> the field that it compares, and whether low values are retained
    "student_likely": ("likelihood", False),
    "rank_surprisal": ("rank_surprisal", True),
    "rationale_difficulty": ("gold_logprob", False),
    "local_naturalness": ("local_likelihood", False),
}


@pytest.mark.parametrize("name", STUDENT_SELECTIONS)
@given(values=st.lists(st.floats(-9, 9), min_size=1, max_size=12), cap=st.integers(1, 12))
@settings(max_examples=25)
def test_student_selections_retain_the_best_scores(name, values, cap):
    field, low = FIELDS[name]
    rows = [response(k) for k in range(len(values))]
    equal, sign = StudentScores("q", 0, 0.5, 0.5, 0.5, 0.5), 1 if low else -1
    scores = {k: dataclasses.replace(equal, sample_index=k, **{field: value}) for k, value in enumerate(values)}
    cap = min(cap, len(rows))
    reference = pick(rows, cap, lambda left, _: argmin(sign * values[row.sample_index] for row in left))
    assert indices(select(name, rows, cap, scores)) == sorted(indices(reference))


def test_rank_surprisal_is_the_ratio_of_sums_with_clipped_ranks():
    log_p, rank = np.array([-1.0, -3.0]), np.array([2, 500])
    assert rank_surprisal_ratio(log_p, rank) == (2 + 100) / 4
    assert rank_surprisal_ratio(np.zeros(2), np.array([1, 1])) > 1e9, "tokens that are certain teach nothing"


def test_sentences_end_at_marks_and_lines():
    assert sentences("It is 3.5 m. So? Yes !\n\nno mark ") == ["It is 3.5 m.", "So?", "Yes !", "no mark"]
    assert sentences("a b . c d .") == ["a b .", "c d ."]
