"""Filters and their ledger: every response ends in exactly one bin, and the bins add up."""

import dataclasses
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scotd_jax.config import Corpus
from scotd_jax.errors import InputError
from scotd_jax.rationales.filters import filter_responses, keep_within_limits
from scotd_jax.rationales.ledger import BINS, STAGES, Ledger
from scotd_jax.records import Question, Response

QUESTIONS = {q: Question(q, "t", "train", "Why?", ("a", "b"), "a") for q in ("q1", "q0")}
GOOD = Response("q0", 0, "because. a", "because", "a", True, "stop", -1.0, 3, "m", "s")


def counts(responses: list[Response]) -> list[tuple[int, int]]:
    """(prompt tokens, response tokens) of each response."""
    return [(5, len(response.text.split())) for response in responses]


def filter_set(questions, responses, corpus, counts, needs_answer=True, needs_rationale=False):
    """Filters a set as the build job does; responses to other questions are counted as not selected.

    Returns the retained responses by question, and the ledger.
    """
    ledger, kept = Ledger(), {}
    for question_id in questions:
        rows = [row for row in responses if row.question_id == question_id]
        left = filter_responses(rows, corpus, counts, ledger, needs_answer, False, needs_rationale)
        if left := keep_within_limits(left, counts(left), corpus, ledger):
            kept[question_id] = left
    for row in responses:
        if row.question_id not in questions:
            ledger.receive(row.question_id, row.model)
            ledger.record_stage("questions", 1, 1)
            ledger.put(row.question_id, "not_selected", row.model)
    return kept, ledger


def response(sample_index, question_id="q0", **fields):
    return dataclasses.replace(GOOD, sample_index=sample_index, question_id=question_id, **fields)


def bin_of(row, questions=QUESTIONS, **corpus):
    """The bin of a single response."""
    needs = [corpus.pop("needs_answer", True), corpus.pop("needs_rationale", False)]
    kept, ledger = filter_set(questions, [row], Corpus(**corpus), counts, *needs)
    ((bin_, count),) = [(b, c) for b, c in ledger.bins.items() if c]
    assert count == 1
    assert (bin_ == "kept") == (row in kept.get(row.question_id, []))
    return bin_


@pytest.mark.parametrize(
    ("fields", "corpus", "expected"),
    [
        ({}, {}, "kept"),
        ({"correct": False, "answer": "b"}, {}, "wrong"),
        ({"correct": False, "answer": "b"}, {"keep": "all"}, "kept"),
        ({"correct": False, "answer": "b"}, {"keep": "wrong"}, "kept"),
        ({}, {"keep": "wrong"}, "not_selected"),
        ({"answer": None, "correct": False}, {}, "unparsable"),
        ({"answer": None, "correct": None}, {"keep": "all"}, "unparsable"),
        ({"answer": None, "correct": None}, {"keep": "all", "needs_answer": False}, "kept"),
        ({"rationale": None}, {"needs_rationale": True}, "no_rationale"),
        ({"rationale": " \n"}, {"needs_rationale": True, "keep": "all"}, "no_rationale"),
        ({"rationale": None, "correct": False}, {"needs_rationale": True, "keep": "wrong"}, "no_rationale"),
        ({"rationale": None, "answer": None}, {"needs_rationale": True}, "unparsable"),
        ({"rationale": None, "answer": None}, {"needs_rationale": True, "needs_answer": False}, "no_rationale"),
        ({"rationale": None}, {}, "kept"),
        ({"finish_reason": "length"}, {"keep": "all"}, "truncated"),
        ({"finish_reason": "length", "answer": None}, {}, "truncated"),
        ({"correct": None}, {"keep": "all"}, "kept"),
        ({"text": "a b c d"}, {"max_response_tokens": 3}, "too_long"),
        ({"text": "a b c"}, {"max_response_tokens": 3}, "kept"),
        ({"text": "a b"}, {"min_response_tokens": 3}, "too_short"),
        ({"text": "a b c"}, {"min_response_tokens": 3}, "kept"),
        ({}, {"max_prompt_tokens": 4}, "too_long"),
        ({}, {"max_prompt_tokens": 5}, "kept"),
        ({"sample_index": 5}, {"n": 5}, "not_selected"),
        ({"sample_index": 4}, {"n": 5}, "kept"),
        ({"sample_index": 99}, {"n": 0}, "kept"),
        ({"question_id": "elsewhere"}, {}, "not_selected"),
    ],
)
def test_bin_of_a_response(fields, corpus, expected):
    assert bin_of(dataclasses.replace(GOOD, **fields), **corpus) == expected


def test_equal_texts_are_kept_unless_dedup_is_set():
    rows = [response(2), response(0), response(1, text="another. a"), response(0, question_id="q1")]
    kept, ledger = filter_set(QUESTIONS, rows, Corpus(), counts)
    assert [r.sample_index for r in kept["q0"]] == [0, 1, 2]
    kept, ledger = filter_set(QUESTIONS, rows, Corpus(dedup=True), counts)
    assert [r.sample_index for r in kept["q0"]] == [0, 1]  # the first sample stays, whatever the order of the file
    assert ledger.bins["duplicate"] == 1
    assert len(kept["q1"]) == 1  # texts are compared within a question


def test_questions_keep_their_order_and_empty_ones_are_dropped():
    rows = [response(0, "q0"), response(0, "q1")]
    assert list(filter_set(QUESTIONS, rows, Corpus(), counts)[0]) == ["q1", "q0"]
    rows[1] = response(0, "q1", correct=False)
    assert list(filter_set(QUESTIONS, rows, Corpus(), counts)[0]) == ["q0"]


def test_keep_needs_gold_answers():
    for keep in ["correct", "wrong"]:
        with pytest.raises(InputError, match=r"question 'q0' has no gold answer.*keep='all'"):
            filter_set(QUESTIONS, [response(0, correct=None)], Corpus(keep=keep), counts)


def test_repeated_response_is_refused():
    with pytest.raises(InputError, match="sample 3 of question 'q0' comes twice"):
        filter_set(QUESTIONS, [response(3), response(1), response(3)], Corpus(), counts)


# Strategies draw the fields of responses; the tests construct the responses.
many_rows = st.lists(
    st.fixed_dictionaries(
        {
            "sample_index": st.integers(0, 12),
            "question_id": st.sampled_from(["q0", "q1", "other"]),
            "text": st.sampled_from(["a", "b c", "d e f g"]),
            "answer": st.sampled_from(["a", "b", None]),
            "correct": st.booleans(),
            "finish_reason": st.sampled_from(["stop", "length"]),
        }
    ),
    max_size=30,
    unique_by=lambda fields: (fields["question_id"], fields["sample_index"]),
)
corpora = st.fixed_dictionaries(
    {
        "n": st.integers(0, 10),
        "keep": st.sampled_from(["correct", "all", "wrong"]),
        "dedup": st.booleans(),
        "near_duplicates": st.sampled_from([0.0, 0.4, 1.0]),
        "cap": st.integers(0, 4),
        "min_response_tokens": st.integers(0, 2),
        "max_response_tokens": st.integers(1, 5),
    }
)


@given(many_rows, corpora, st.integers(0, 2**32))
@settings(max_examples=100)
def test_bins_add_up_in_any_order(many, corpus, seed):
    rows = [response(**fields) for fields in many]
    kept, ledger = filter_set(QUESTIONS, rows, Corpus(**corpus), counts)
    report = ledger.to_json()
    assert report["total"] == len(rows) == sum(report["bins"].values())
    assert list(report["bins"]) == list(BINS)
    assert sum(stage["dropped"] for stage in report["stages"]) == len(rows) - report["bins"]["kept"]
    assert [stage["in"] for stage in report["stages"][1:]] == [stage["out"] for stage in report["stages"][:-1]]
    assert sum(source["total"] for source in report["sources"].values()) == len(rows)
    for question_id in ("q0", "q1", "other"):
        bins = report["per_question"].get(question_id, {})
        assert sum(bins.values()) == sum(r.question_id == question_id for r in rows)
        assert bins.get("kept", 0) == len(kept.get(question_id, []))
    shuffled = random.Random(seed).sample(rows, len(rows))
    again, ledger = filter_set(QUESTIONS, shuffled, Corpus(**corpus), counts)
    assert again == kept
    assert json.dumps(ledger.to_json()) == json.dumps(report)


@given(many_rows, corpora)
@settings(max_examples=60)
def test_subsets_of_n_are_nested(many, corpus):
    rows = [response(**fields) for fields in many]
    kept = {n: filter_set(QUESTIONS, rows, Corpus(**corpus | {"n": n}), counts)[0] for n in (1, 5, 9)}
    for small, large in [(1, 5), (5, 9)]:
        for question_id, responses in kept[small].items():
            assert responses == [r for r in kept[large][question_id] if r.sample_index < small]


def test_ledger_that_does_not_add_up_raises():
    ledger = Ledger()
    ledger.receive("q0")
    with pytest.raises(RuntimeError, match="question 'q0' has 1 responses, 0 in the bins"):
        ledger.to_json()
    ledger.put("q0", "wrong")
    ledger.check()
    ledger.put("q1", "kept")
    with pytest.raises(RuntimeError, match="question 'q1' has 0 responses, 1 in the bins"):
        ledger.check()
    with pytest.raises(KeyError, match="'lost' is not a bin"):
        ledger.put("q0", "lost")


def test_stages_and_sources_must_add_up():
    def ledger(*stages):
        new = Ledger()
        for source, bin_ in [("m1", "wrong"), ("m2", "kept")]:
            new.receive("q0", source)
            new.put("q0", bin_, source)
        for stage in stages:
            new.record_stage(*stage)
        return new

    ledger(("questions", 2, 0), ("keep", 2, 1), ("cap", 1, 0)).check()
    with pytest.raises(RuntimeError, match="stage 'cap' received 2, 1 passed the one before"):
        ledger(("questions", 2, 0), ("keep", 2, 1), ("cap", 2, 0)).check()
    with pytest.raises(RuntimeError, match="2 responses passed all stages, 1 are kept"):
        ledger(("questions", 2, 0)).check()
    with pytest.raises(KeyError, match="'kept' is not a stage"):
        ledger(("kept", 1, 0))
    moved = ledger()
    moved.receive("q1", "m1")
    moved.put("q1", "kept", "m2")
    with pytest.raises(RuntimeError, match="source 'm[12]' has"):
        moved.check()


@given(many_rows, corpora)
@settings(max_examples=40)
def test_merged_ledgers_equal_the_whole(many, corpus):
    rows = [response(**fields, model=f"m{fields['sample_index'] % 2}") for fields in many]

    def ledger_of(questions):
        own = [row for row in rows if row.question_id in questions]
        return filter_set(questions, own, Corpus(**corpus), counts)[1]

    parts = Ledger()
    for question_id in ("q0", "q1"):
        parts.merge(ledger_of({question_id: QUESTIONS[question_id]}).to_json())
    assert parts.to_json() == ledger_of(QUESTIONS).to_json()


def test_report_and_summary():
    rows = [
        response(0),
        response(1, correct=False),
        response(2, correct=False),
        response(3, finish_reason="length", model="other"),
    ]
    _, ledger = filter_set(QUESTIONS, rows, Corpus(), counts)
    assert ledger.summary() == "1 of 4 responses kept (2 wrong, 1 truncated)"
    report = ledger.to_json()
    dropped = {"truncated": 1, "keep": 2}
    assert {stage["stage"]: stage["dropped"] for stage in report["stages"] if stage["dropped"]} == dropped
    assert [stage["stage"] for stage in report.pop("stages")] == [stage for stage in STAGES if stage != "max_responses"]
    assert report == {
        "total": 4,
        "bins": dict.fromkeys(BINS, 0) | {"kept": 1, "wrong": 2, "truncated": 1},
        "questions": {"answered": 1, "with_kept": 1},
        "sources": {
            "m": {"total": 3, "bins": {"kept": 1, "wrong": 2}},
            "other": {"total": 1, "bins": {"truncated": 1}},
        },
        "per_question": {"q0": {"kept": 1, "wrong": 2, "truncated": 1}},
    }
