"""Selections: which `cap` of the responses to a question a corpus retains (SCoTD, section 4, and later work).

Every selection is applied at the same point, to the responses that pass all other filters, and retains the same number
for every question, so that arms that differ in `cap_by` alone are comparable. Only "open_ended" has an equal *mean*
instead: it gives more of the budget to questions with more varied responses (open_endedness.py). Under every selection,
the responses of a smaller cap are among those of a larger one.

The selections of `STUDENT_SELECTIONS` compare scores under a student (student_scores.py). Lengths and n-grams are those
of the rationale, in words, or of the whole text of a response without one.
"""

import collections
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from scotd_jax.errors import UnusableCorpusError
from scotd_jax.keyed_random import random_sort_key
from scotd_jax.rationales.student_scores import StudentScores
from scotd_jax.rationales.text_clusters import cluster_texts
from scotd_jax.rationales.words import words
from scotd_jax.records import Response

Select = Callable[[Sequence[Response], int], list[Response]]

MIX_PERIOD = 5  # one long rationale among five, the ratio of Mix-Long (arXiv 2502.12143)


def first(rows: Sequence[Response], cap: int) -> list[Response]:
    """The first samples."""
    return sorted(rows, key=lambda row: row.sample_index)[:cap]


def at_random(rows: Sequence[Response], cap: int) -> list[Response]:
    """A random choice, keyed by question and sample: the baseline that the others have to exceed."""
    return sorted(rows, key=_random_key)[:cap]


def most_likely(rows: Sequence[Response], cap: int) -> list[Response]:
    """The highest log-probability per token under the teacher.

    Raises:
      UnusableCorpusError: if a record has no log-probability.
    """
    return sorted(rows, key=lambda row: (-_log_likelihood(row), row.sample_index))[:cap]


def diverse(rows: Sequence[Response], cap: int) -> list[Response]:
    """One response, at random, of each of `cap` clusters of similar rationales."""
    labels = cluster_texts([_chain_of_thought(row) for row in rows], cap)
    by_cluster: dict[int, Response] = {}
    for row, label in sorted(zip(rows, labels, strict=True), key=lambda pair: _random_key(pair[0])):
        by_cluster.setdefault(label, row)
    return list(by_cluster.values())


def shortest(rows: Sequence[Response], cap: int) -> list[Response]:
    """The fewest words."""
    return _by_length(rows)[:cap]


def longest(rows: Sequence[Response], cap: int) -> list[Response]:
    """The most words."""
    return _by_length(rows)[::-1][:cap]


def length_quantiles(rows: Sequence[Response], cap: int) -> list[Response]:
    """The median length, the shortest, the longest, then repeatedly the middle of the widest gap between them."""
    by_length = _by_length(rows)
    chosen = list(dict.fromkeys([(len(rows) - 1) // 2, 0, len(rows) - 1]))
    while len(chosen) < cap:
        gaps = itertools.pairwise(sorted(chosen))
        below, above = max(gaps, key=lambda gap: (gap[1] - gap[0]) // 2)
        chosen.append((below + above) // 2)
    return [by_length[i] for i in chosen[:cap]]


def length_mix(rows: Sequence[Response], cap: int) -> list[Response]:
    """Four short rationales to one long: of every five, the second is the longest that is left, the others shortest."""
    left = collections.deque(_by_length(rows))
    return [left.pop() if i % MIX_PERIOD == 1 else left.popleft() for i in range(cap)]


def teacher_mix(rows: Sequence[Response], cap: int) -> list[Response]:
    """The first samples of every teacher in turn, so that the teachers have equal shares."""
    by_teacher: dict[str, list[Response]] = {}
    for row in sorted(rows, key=lambda row: row.sample_index):
        by_teacher.setdefault(row.model, []).append(row)
    turns = itertools.zip_longest(*by_teacher.values())
    return [row for turn in turns for row in turn if row is not None][:cap]


# Values of Corpus.cap_by. "open_ended" retains the first samples too, but not equally many for every question.
SELECTIONS: dict[str, Select] = {
    "first": first,
    "random": at_random,
    "likely": most_likely,
    "open_ended": first,
    "diverse": diverse,
    "shortest": shortest,
    "longest": longest,
    "length_quantiles": length_quantiles,
    "length_mix": length_mix,
    "teacher_mix": teacher_mix,
}


# Further values of Corpus.cap_by, which compare scores under the student `scored_by`; the highest are retained.
STUDENT_SELECTIONS: dict[str, Callable[[StudentScores], float | None]] = {
    "student_likely": lambda scores: scores.likelihood,
    "rank_surprisal": lambda scores: -scores.rank_surprisal,
    "rationale_difficulty": lambda scores: scores.gold_logprob,
    "local_naturalness": lambda scores: scores.local_likelihood,
}


def select(
    name: str, rows: Sequence[Response], cap: int, scores: Mapping[int, StudentScores] | None = None
) -> list[Response]:
    """Returns the `cap` responses to one question that a selection retains, by sample index; all if there are fewer.

    Args:
      name: a key of `SELECTIONS` or `STUDENT_SELECTIONS`.
      rows: responses to one question that pass all other filters.
      cap: number of responses to retain; 0 is all.
      scores: scores under the student by sample index, for a key of `STUDENT_SELECTIONS`.

    Raises:
      UnusableCorpusError: if a response lacks what the selection compares.
    """
    if not cap or len(rows) <= cap:
        return list(rows)
    if name in STUDENT_SELECTIONS:
        value = {row.sample_index: _student_score(name, row, scores or {}) for row in rows}
        selected = sorted(rows, key=lambda row: (-value[row.sample_index], row.sample_index))[:cap]
    else:
        selected = SELECTIONS[name](rows, cap)
    return sorted(selected, key=lambda row: row.sample_index)


def _student_score(name: str, row: Response, scores: Mapping[int, StudentScores]) -> float:
    """The score that a selection compares; the highest are retained."""
    which = f"sample {row.sample_index} of question {row.question_id!r}"
    if row.sample_index not in scores:
        raise UnusableCorpusError(
            f"{which} has no scores for cap_by={name!r}: the student of scored_by scores only complete responses with "
            "a rationale and an answer, within the limits of its own corpus; raise its max_prompt_tokens and "
            "max_response_tokens, or lower those of this corpus"
        )
    value = STUDENT_SELECTIONS[name](scores[row.sample_index])
    if value is None:
        raise UnusableCorpusError(
            f"{which}: cap_by={name!r} compares the probability of the gold answer, which is unknown"
        )
    return value


def _random_key(row: Response) -> bytes:
    return random_sort_key("cap", *row.key)


def _chain_of_thought(row: Response) -> str:
    return row.rationale or row.text


def _by_length(rows: Sequence[Response]) -> list[Response]:
    """The rows from the fewest words to the most; of equally long ones the earlier sample first."""
    return sorted(rows, key=lambda row: (len(words(_chain_of_thought(row))), row.sample_index))


def _log_likelihood(row: Response) -> float:
    """Log-probability per token, in nats."""
    if not math.isfinite(row.logprob) or row.num_tokens < 1 or row.logprob == 0:
        raise UnusableCorpusError(
            f"sample {row.sample_index} of question {row.question_id!r} has no log-probability ({row.logprob} of "
            f"{row.num_tokens} tokens), which cap_by='likely' compares: use cap_by='first' or 'random'"
        )
    return row.logprob / row.num_tokens
