"""Filters that select the responses a student is trained on (SCoTD, section 3), and a ledger that counts all of them.

The responses to a question pass through these stages in order. Each stage is named after the field of `config.Corpus`
that controls it, and puts the responses that it drops into a bin:

    stage            bin             a response passes if
    questions        not_selected    its question belongs to the corpus (decided where responses are read)
    n                not_selected    it is one of the first n samples of its question
    truncated        truncated       it ended by itself and not at the token limit
    unparsable       unparsable,     an answer was parsed (skipped if none is needed: keep is "all"), and a rationale
                     no_rationale    that is not empty (if the recipe trains on it)
    keep             wrong,          keep is "all", or keep is "correct" and its answer equals the gold answer, or keep
                     not_selected    is "wrong" and its answer differs (correct ones are then not_selected)
    tokens           too_short,      its longest target and its longest prompt are within the student's limits
                     too_long
    dedup            duplicate       no earlier response has the same text
    near_duplicates  near_duplicate  no earlier passing response has a trigram similarity above `near_duplicates`
    decontaminate    contaminated    its question does not overlap with an evaluation question (contamination.py)
    cap              over_cap        it is one of the `cap` responses that `cap_by` selects (selections.py)
    rationale        too_long        it is still within the limits after a control has replaced its rationale
                                     (controls.py)
    max_responses    not_selected    it is one of this number of responses in the corpus, which are selected at random
                                     from those that pass all other stages (corpus/subsampling.py)

Responses that pass all stages are kept. Stage n precedes all filters, so a smaller n gives a subset of the corpus of a
larger one, except that with a cap_by other than "first" a later sample may displace an earlier one. A smaller cap
always gives a subset of the corpus of a larger one.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

from scotd_jax.config import Corpus
from scotd_jax.errors import InputError
from scotd_jax.rationales.ledger import Ledger
from scotd_jax.rationales.near_duplicates import near_duplicates
from scotd_jax.rationales.selections import select
from scotd_jax.rationales.student_scores import StudentScores
from scotd_jax.records import Response

TokenCounts = Callable[[list[Response]], Sequence[tuple[int, int]]]
Bins = list[str | None]  # the bin of each response; None if the response passes


def filter_responses(
    responses: Iterable[Response],
    corpus: Corpus,
    token_counts: TokenCounts,
    ledger: Ledger,
    needs_answer: bool = True,
    contaminated: bool = False,
    needs_rationale: bool = False,
    cap: int | None = None,
    scores: Mapping[int, StudentScores] | None = None,
) -> list[Response]:
    """Applies all stages up to "cap" to the responses to one question.

    Args:
      responses: all responses to the question.
      corpus: settings of the filters.
      token_counts: returns for each response the number of tokens of its prompt and of its target, in the student's
        tokenization. It is called once, with the responses that reach the stage "tokens".
      ledger: counts the responses that are dropped.
      needs_answer: whether responses without an answer are dropped.
      contaminated: whether the question overlaps with an evaluation question.
      needs_rationale: whether responses without a rationale are dropped.
      cap: number of responses to retain, where it differs between questions; None is that of the corpus.
      scores: scores under a student by sample index, for a `cap_by` that compares them.

    Returns:
      The responses that pass, by sample index. `keep_within_limits` applies the last stage to them.

    Raises:
      InputError: if two responses share a key, if `keep` needs a gold answer that is unknown, or if a response
        lacks what `cap_by` compares.
    """
    rows = sorted(responses, key=lambda row: row.sample_index)
    for row, next_row in itertools.pairwise(rows):
        if row.key == next_row.key:
            raise InputError(f"sample {row.sample_index} of question {row.question_id!r} comes twice")
    for row in rows:
        ledger.receive(row.question_id, row.model)
    ledger.record_stage("questions", len(rows), 0)
    stages: dict[str, Callable[[list[Response]], Bins]] = {
        "n": lambda rows: _drop("not_selected", (0 < corpus.n <= row.sample_index for row in rows)),
        "truncated": lambda rows: _drop("truncated", (row.finish_reason == "length" for row in rows)),
        "unparsable": lambda rows: [_unparsable_bin(row, needs_answer, needs_rationale) for row in rows],
        "keep": lambda rows: [_answer_bin(row, corpus) for row in rows],
        "tokens": lambda rows: [_length_bin(*counts, corpus) for counts in token_counts(rows)] if rows else [],
        "dedup": lambda rows: _drop("duplicate", _is_duplicate(rows, corpus)),
        "near_duplicates": lambda rows: _drop("near_duplicate", _is_near_duplicate(rows, corpus)),
        "decontaminate": lambda rows: _drop("contaminated", (contaminated for _ in rows)),
        "cap": lambda rows: _drop("over_cap", _is_over_cap(rows, corpus, cap, scores)),
    }
    for name, stage in stages.items():
        rows = _apply(name, rows, stage(rows), ledger)
    return rows


def keep_within_limits(
    rows: list[Response], counts: Sequence[tuple[int, int]], corpus: Corpus, ledger: Ledger
) -> list[Response]:
    """Applies the last stage, "rationale", and records the responses that are kept.

    Args:
      rows: responses that passed all other stages.
      counts: for each of them the tokens of its prompt and of its target after a control has replaced its rationale.
      corpus: settings of the filters.
      ledger: counts the responses.

    Returns:
      The responses that are kept.
    """
    too_long = (_is_too_long(prompt, target, corpus) for prompt, target in counts)
    kept = _apply("rationale", rows, _drop("too_long", too_long), ledger)
    for row in kept:
        ledger.put(row.question_id, "kept", row.model)
    return kept


def _apply(name: str, rows: list[Response], bins: Bins, ledger: Ledger) -> list[Response]:
    """Records a stage and returns the responses that pass it."""
    passed = [row for row, bin_ in zip(rows, bins, strict=True) if bin_ is None]
    ledger.record_stage(name, len(rows), len(rows) - len(passed))
    for row, bin_ in zip(rows, bins, strict=True):
        if bin_ is not None:
            ledger.put(row.question_id, bin_, row.model)
    return passed


def _drop(bin_: str, dropped: Iterable[bool]) -> Bins:
    """The bin of each response: `bin_` where `dropped`, else None."""
    return [bin_ if is_dropped else None for is_dropped in dropped]


def _unparsable_bin(response: Response, needs_answer: bool, needs_rationale: bool) -> str | None:
    if needs_answer and response.answer is None:
        return "unparsable"
    return None if response.has_rationale or not needs_rationale else "no_rationale"


def _answer_bin(response: Response, corpus: Corpus) -> str | None:
    if corpus.keep == "all":
        return None
    if response.correct is None:
        raise InputError(
            f"question {response.question_id!r} has no gold answer, but keep={corpus.keep!r} compares with it: "
            "use keep='all'"
        )
    if corpus.keep == "correct":
        return None if response.correct else "wrong"
    return "not_selected" if response.correct else None


def _length_bin(prompt: int, target: int, corpus: Corpus) -> str | None:
    if _is_too_long(prompt, target, corpus):
        return "too_long"
    return "too_short" if target < corpus.min_response_tokens else None


def _is_too_long(prompt: int, target: int, corpus: Corpus) -> bool:
    return prompt > corpus.max_prompt_tokens or target > corpus.max_response_tokens


def _is_duplicate(rows: list[Response], corpus: Corpus) -> list[bool]:
    if not corpus.dedup:
        return [False] * len(rows)
    first: dict[str, Response] = {}
    return [first.setdefault(row.text, row) is not row for row in rows]


def _is_near_duplicate(rows: list[Response], corpus: Corpus) -> list[bool]:
    if corpus.near_duplicates >= 1:
        return [False] * len(rows)
    return near_duplicates([row.text for row in rows], corpus.near_duplicates)


def _is_over_cap(
    rows: list[Response], corpus: Corpus, cap: int | None, scores: Mapping[int, StudentScores] | None
) -> list[bool]:
    selected = {row.key for row in select(corpus.cap_by, rows, corpus.cap if cap is None else cap, scores)}
    return [row.key not in selected for row in rows]
