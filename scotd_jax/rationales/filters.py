"""Which responses a student learns from (SCoTD, section 3), and a ledger of all others.

The responses to a question go through these stages in this order; each is named after what decides it in
`config.Corpus`, and puts those that it holds back into a bin:

    questions        not_selected    is its question one of the corpus? (decided where responses are read)
    n                not_selected    is it one of the first n samples of its question?
    truncated        truncated       did it end by itself, and not at the token limit?
    unparsable       unparsable      could an answer be parsed? (Not asked where none is used: keep is "all".)
    keep             wrong           keep "correct": is that the gold answer? (keep "wrong": is it another?
                                     Those that are right are not_selected.)
    tokens           too_short,      is the longest of its targets within the student's limits, and its longest prompt?
                     too_long
    dedup            duplicate       is its text new among those that came so far?
    near_duplicates  near_duplicate  does it share at most that part of its word trigrams with each of them?
    decontaminate    contaminated    is its question free of overlap with the evaluation? (contamination.py)
    cap              over_cap        is it one of the `cap` that `cap_by` chooses?
    rationale        too_long        does it still fit after a control has changed its rationale? (controls.py)

What is left is kept. As n cuts before all filters, the corpus of a smaller n is a part of that of a larger one; only
where cap_by is "random" or "likely" may a later sample take an earlier one's place. A smaller cap always keeps a part
of what a larger one keeps.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

from scotd_jax.config import Corpus
from scotd_jax.errors import InputError
from scotd_jax.keyed_random import random_sort_key
from scotd_jax.rationales.ledger import Ledger
from scotd_jax.rationales.near_duplicates import near_duplicates
from scotd_jax.records import Response

TokenCounts = Callable[[list[Response]], Sequence[tuple[int, int]]]
Bins = list[str]  # one per response; "" goes on


def filter_responses(
    responses: Iterable[Response],
    corpus: Corpus,
    token_counts: TokenCounts,
    ledger: Ledger,
    needs_answer: bool = True,
    contaminated: bool = False,
) -> list[Response]:
    """Those of all `responses` to one question that pass the stages up to "cap", by sample index.

    They are still to be settled (`settle`); each of the others is put into a bin of `ledger`. `token_counts(rows)`
    is, for each of some responses, the number of tokens of its prompt and of its target as the student reads them; it
    is called once, with those that got as far as "tokens".

    Raises InputError on two responses of one name, where `keep` needs a gold answer that is not known, and where
    `cap_by` needs a log-probability that is not known.
    """
    rows = sorted(responses, key=lambda r: r.sample_index)
    for one, next_ in itertools.pairwise(rows):
        if one.key == next_.key:
            raise InputError(f"sample {one.sample_index} of question {one.question_id!r} comes twice")
    for row in rows:
        ledger.receive(row.question_id, row.model)
    ledger.record_stage("questions", len(rows), 0)
    stages: dict[str, Callable[[list[Response]], Bins]] = {
        "n": lambda rows: ["not_selected" * bool(corpus.n and r.sample_index >= corpus.n) for r in rows],
        "truncated": lambda rows: ["truncated" * (r.finish_reason == "length") for r in rows],
        "unparsable": lambda rows: ["unparsable" * (needs_answer and r.answer is None) for r in rows],
        "keep": lambda rows: [_answer(r, corpus) for r in rows],
        "tokens": lambda rows: [_tokens(*counts, corpus) for counts in token_counts(rows)] if rows else [],
        "dedup": lambda rows: _duplicates(rows, corpus),
        "near_duplicates": lambda rows: _near(rows, corpus),
        "decontaminate": lambda rows: ["contaminated" * contaminated] * len(rows),
        "cap": lambda rows: _over_cap(rows, corpus),
    }
    for name, stage in stages.items():
        rows = _passed(name, rows, stage(rows), ledger)
    return rows


def keep_within_limits(
    rows: list[Response], counts: Sequence[tuple[int, int]], corpus: Corpus, ledger: Ledger
) -> list[Response]:
    """The last stage: those of `rows`, which passed all others, that are kept. `counts` are their numbers of tokens
    after a control has changed their rationales."""
    kept = _passed("rationale", rows, ["too_long" * _too_long(*each, corpus) for each in counts], ledger)
    for row in kept:
        ledger.put(row.question_id, "kept", row.model)
    return kept


def _passed(name: str, rows: list[Response], bins: Bins, ledger: Ledger) -> list[Response]:
    passed = [row for row, bin_ in zip(rows, bins, strict=True) if not bin_]
    ledger.record_stage(name, len(rows), len(rows) - len(passed))
    for row, bin_ in zip(rows, bins, strict=True):
        if bin_:
            ledger.put(row.question_id, bin_, row.model)
    return passed


def _answer(response: Response, corpus: Corpus) -> str:
    if corpus.keep == "all":
        return ""
    if response.correct is None:
        raise InputError(
            f"question {response.question_id!r} has no gold answer, but keep={corpus.keep!r} compares with it: "
            "use keep='all'"
        )
    if corpus.keep == "correct":
        return "" if response.correct else "wrong"
    return "not_selected" if response.correct else ""


def _tokens(prompt: int, target: int, corpus: Corpus) -> str:
    if _too_long(prompt, target, corpus):
        return "too_long"
    return "too_short" if target < corpus.min_response_tokens else ""


def _too_long(prompt: int, target: int, corpus: Corpus) -> bool:
    return prompt > corpus.max_prompt_tokens or target > corpus.max_response_tokens


def _duplicates(rows: list[Response], corpus: Corpus) -> Bins:
    if not corpus.dedup:
        return [""] * len(rows)
    first: dict[str, Response] = {}
    return ["duplicate" * (first.setdefault(row.text, row) is not row) for row in rows]


def _near(rows: list[Response], corpus: Corpus) -> Bins:
    if corpus.near_duplicates >= 1:
        return [""] * len(rows)
    return ["near_duplicate" * mark for mark in near_duplicates([row.text for row in rows], corpus.near_duplicates)]


def _over_cap(rows: list[Response], corpus: Corpus) -> Bins:
    if not corpus.cap or len(rows) <= corpus.cap:
        return [""] * len(rows)
    keys = {
        "first": lambda row: row.sample_index,
        "random": lambda row: random_sort_key("cap", *row.key),
        "likely": lambda row: (-_likelihood(row), row.sample_index),
    }
    chosen = {row.sample_index for row in sorted(rows, key=keys[corpus.cap_by])[: corpus.cap]}
    return ["" if row.sample_index in chosen else "over_cap" for row in rows]


def _likelihood(row: Response) -> float:
    """Log-probability per token."""
    if not math.isfinite(row.logprob) or row.num_tokens < 1 or row.logprob == 0:
        raise InputError(
            f"sample {row.sample_index} of question {row.question_id!r} has no log-probability ({row.logprob} of "
            f"{row.num_tokens} tokens), which cap_by='likely' compares: use cap_by='first' or 'random'"
        )
    return row.logprob / row.num_tokens
