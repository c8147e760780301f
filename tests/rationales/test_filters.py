"""Filters on the responses to one question, and controls that replace rationales."""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scotd_jax.config import Corpus
from scotd_jax.errors import FieldError, InputError
from scotd_jax.rationales.controls import apply_control
from scotd_jax.rationales.filters import filter_responses
from scotd_jax.rationales.ledger import Ledger
from scotd_jax.rationales.near_duplicates import near_duplicates, similarity, trigrams
from scotd_jax.rationales.words import words
from scotd_jax.records import Question, Response

GOOD = Response("q", 0, "because. a", "because", "a", True, "stop", -1.0, 3, "m", "s")


def response(k: int, question_id: str = "q", **fields) -> Response:
    return dataclasses.replace(GOOD, sample_index=k, question_id=question_id, **fields)


def kept(rows, contaminated=False, **corpus) -> list[int]:
    """Filters the rows, in random order; returns the sample indices of those that pass."""
    rows = random.Random(0).sample(rows, len(rows))
    ledger = Ledger()
    passed = filter_responses(rows, Corpus(**corpus), lambda rows: [(1, 1)] * len(rows), ledger, True, contaminated)
    assert sum(ledger.bins.values()) == len(rows) - len(passed)
    return [row.sample_index for row in passed]


def test_words_drop_case_and_punctuation():
    assert words("It's \"WELL-known\", is_n't it?\nYes.") == ["its", "wellknown", "isnt", "it", "yes"]
    assert words("...") == []


def test_similarity_is_the_share_of_common_trigrams():
    one, other = trigrams("a b c d e"), trigrams("A, b, c! d f")
    assert similarity(one, other) == 2 / 4  # abc and bcd are common, cde and cdf are not
    assert similarity(one, one) == 1
    assert similarity(trigrams("yes no"), trigrams("Yes, no.")) == 1
    assert similarity(trigrams(""), trigrams("...")) == 1
    assert similarity(trigrams("yes"), trigrams("no")) == 0


def test_near_duplicates_are_compared_with_unmarked_texts_only():
    texts = ["a b c d e", "a b c d f", "a b x d f", "A B C D E"]
    assert near_duplicates(texts, 0.49) == [False, True, False, True]
    assert near_duplicates(texts, 0.5) == [False, False, False, True]  # equal to the threshold passes
    assert near_duplicates(["a b c d e", "b c d e f", "c d e f g"], 0.4) == [
        False,
        True,
        False,
    ]  # the third resembles only the second
    rows = [response(k, text=text) for k, text in enumerate(texts)]
    assert kept(rows, near_duplicates=0.49) == [0, 2]
    assert kept(rows, near_duplicates=1.0) == [0, 1, 2, 3]
    assert kept([rows[0], response(4, text=texts[0])], dedup=True, near_duplicates=0.5) == [0]


def test_cap_applies_the_selection_to_the_responses_that_pass_the_other_filters():
    logprobs = [(-9.0, 3), (-8.0, 4), (-5.0, 1), (-4.0, 2)]
    rows = [response(k, logprob=logprob, num_tokens=tokens) for k, (logprob, tokens) in enumerate(logprobs)]
    assert kept(rows, cap=2) == [0, 1]
    assert kept(rows, cap=2, cap_by="likely") == [1, 3]  # -2 nats per token each, the others -3 and -5
    rows[1] = response(1, correct=False, logprob=-0.1, num_tokens=9)
    assert kept(rows, cap=2, cap_by="likely") == [0, 3]
    many = [response(k) for k in range(20)]
    assert kept(many, cap=0) == list(range(20))
    others = [response(k, question_id="r") for k in range(20)]
    assert set(kept(others, cap=5, cap_by="random")) != set(kept(many, cap=5, cap_by="random")) != set(range(5))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cap": -1}, "cap: expected at least 0 .off., found -1"),
        ({"cap_by": "likely"}, "cap_by: 'likely' selects nothing without a budget; set cap"),
    ],
)
def test_cap_refuses_a_selection_without_a_budget(fields, message):
    with pytest.raises(FieldError, match=message):
        Corpus(**fields)


def test_response_goes_into_the_bin_of_the_first_stage_that_drops_it():
    rows = [
        response(0),
        response(1, correct=False),
        response(2, finish_reason="length"),
        response(3),
        response(4),
        response(5),
    ]
    rows[4] = response(4, text="something quite different. a")
    ledger = Ledger()
    corpus = Corpus(n=5, dedup=True, cap=1)
    assert filter_responses(rows, corpus, lambda rows: [(1, 1)] * len(rows), ledger, True, True) == []
    bins = {name: count for name, count in ledger.bins.items() if count}
    assert bins == {"wrong": 1, "truncated": 1, "duplicate": 1, "contaminated": 2, "not_selected": 1}


def test_tokens_are_counted_once_for_responses_that_reach_the_stage():
    calls = []

    def counts(rows):
        calls.append([row.sample_index for row in rows])
        return [(1, 1)] * len(rows)

    rows = [response(0), response(1, correct=False), response(2), response(3, finish_reason="length")]
    filter_responses(rows, Corpus(), counts, Ledger())
    filter_responses([response(0, correct=False)], Corpus(), counts, Ledger())
    assert calls == [[0, 2]]


many_rows = st.lists(
    st.fixed_dictionaries(
        {
            "text": st.sampled_from(["a b c d", "a b c e", "b c d e f", "x"]),
            "correct": st.booleans(),
            "finish_reason": st.sampled_from(["stop", "length"]),
        }
    ),
    max_size=12,
)


@given(many_rows, st.booleans(), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 3))
@settings(max_examples=60)
def test_smaller_n_keeps_a_subset(many, dedup, near, cap):
    rows = [response(k, **fields) for k, fields in enumerate(many)]
    settings = {"dedup": dedup, "near_duplicates": near, "cap": cap}
    small, large = (kept(rows, n=n, **settings) for n in (4, 9))
    assert small == [k for k in large if k < 4]


def groups(sizes):
    return [
        (Question(f"q{i}", "t", "s", "?"), [response(k, f"q{i}", rationale=f"r{i} {k} a b c d e") for k in range(size)])
        for i, size in enumerate(sizes)
    ]


def controlled_rationales(kind, groups, before=None):
    return [[row.rationale for row in rows] for _, rows in apply_control(kind, iter(groups), before)]


def test_controls_replace_rationales():
    own_groups = groups([2, 0, 3])
    own = [[row.rationale for row in rows] for _, rows in own_groups]
    assert controlled_rationales("own", own_groups) == own
    assert controlled_rationales("empty", own_groups) == [["", ""], [], ["", "", ""]]
    shuffled = controlled_rationales("shuffled", own_groups)
    assert shuffled != own
    own_words, shuffled_words = ([[sorted(r.split()) for r in rows] for rows in groups] for groups in (own, shuffled))
    assert own_words == shuffled_words
    assert controlled_rationales("shuffled", own_groups[2:]) == shuffled[2:]  # the permutation is keyed by the response
    assert controlled_rationales("other", own_groups) == [own[2][:2], [], [own[0][0], own[0][1], own[0][0]]]
    # Without `before`, the first group takes the rationales of the last one.
    assert controlled_rationales("other", own_groups, before=own_groups[2][1]) == controlled_rationales(
        "other", own_groups
    )
    assert [q.id for q, _ in apply_control("other", own_groups)] == ["q0", "q1", "q2"]
    assert controlled_rationales("other", []) == []


@pytest.mark.parametrize("kind", ["shuffled", "other", "empty"])
def test_controls_leave_other_fields_alone(kind):
    own_groups = groups([2, 2])
    for (_, before), (_, after) in zip(own_groups, apply_control(kind, own_groups), strict=True):
        assert [dataclasses.replace(row, rationale="") for row in after] == [
            dataclasses.replace(row, rationale="") for row in before
        ]


def test_control_other_needs_another_question():
    with pytest.raises(InputError, match="question 'q1' is the only one with a rationale"):
        list(apply_control("other", groups([0, 2, 0])))
