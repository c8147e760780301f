"""Example responses of every set of a work directory, by bin: correct, wrong, unparsable, truncated."""

import heapq
from collections.abc import Iterator

from scotd_jax.errors import InputError
from scotd_jax.jobs.context import RunContext
from scotd_jax.keyed_random import random_sort_key
from scotd_jax.rationales.store import read_responses
from scotd_jax.records import Response
from scotd_jax.reporting.data import Example, ResponseBin, ResponseSet

BINS = ("correct", "answered", "wrong", "no rationale", "rationale only", "unparsable", "truncated")


def response_sets(context: RunContext, count: int) -> Iterator[ResponseSet]:
    """Yields every complete set of responses with up to `count` examples per bin, selected by a hash.

    Raises:
      InputError: if a set holds a response to a question that is not in the config.
    """
    for name, spec in context.config.rationales.items():
        artefact = context.artefact("sample", name)
        if not artefact.complete:
            continue
        questions = context.questions.by_id(spec.questions)
        totals = dict.fromkeys(BINS, 0)
        selected: dict[str, list[tuple[int, Response]]] = {bin_: [] for bin_ in BINS}
        for row in read_responses(context.response_files(name)):
            if row.question_id not in questions:
                raise InputError(
                    f"{artefact.path}: holds a response to {row.question_id!r}, which is no question of "
                    f"config.rationales.{name}; use the config with which it was made"
                )
            bin_ = response_bin(row)
            totals[bin_] += 1
            # Negated, so that the smallest entry of the heap is the largest hash, which a smaller one replaces.
            push = heapq.heappush if len(selected[bin_]) < count else heapq.heappushpop
            push(selected[bin_], (-int.from_bytes(random_sort_key("example", *row.key)), row))
        yield ResponseSet(
            name,
            {
                bin_: ResponseBin(
                    total,
                    tuple(Example(questions[row.question_id][0], row, name) for _, row in sorted(selected[bin_])),
                )
                for bin_, total in totals.items()
                if total
            },
        )


def response_bin(response: Response) -> str:
    """Returns which of `BINS` a response is in."""
    if response.finish_reason == "length":
        return "truncated"
    if response.answer is None:
        return "rationale only" if response.rationale else "unparsable"
    if not response.rationale:
        return "no rationale"
    return {True: "correct", False: "wrong", None: "answered"}[response.correct]
