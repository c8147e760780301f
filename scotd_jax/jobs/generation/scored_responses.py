"""Selects the stored responses of a teacher that an evaluation scores in place of a student's."""

from collections.abc import Iterator, Set

from etils import epath

from scotd_jax.config import EvalSpec
from scotd_jax.distributed import hosts
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.writing import write_missing
from scotd_jax.rationales.store import read_responses
from scotd_jax.records import Response
from scotd_jax.tasks.question_loader import QuestionsById
from scotd_jax.tasks.question_sets import file_stem


def write_scored_responses(
    context: RunContext, spec: EvalSpec, set_name: str, questions: QuestionsById, folder: epath.Path
) -> list[epath.Path]:
    """Writes the first n responses to every question of a set.

    A question with fewer responses, for example because a file does not contain it, is left out and counted in the log.

    Returns:
      The files of the responses.

    Raises:
      InputError: if no question has n responses.
    """
    by_question: dict[str, list[Response]] = {id_: [] for id_ in questions}
    for row in read_responses(context.response_files(spec.responses)):
        if row.question_id in by_question:
            by_question[row.question_id].append(row)
    answered = {id_: _first(rows, spec.n) for id_, rows in by_question.items() if len(rows) >= spec.n}
    if not answered:
        raise InputError(
            f"config.rationales.{spec.responses}: none of the {len(questions)} questions of {set_name} has "
            f"{spec.n} responses; the arm {spec.arm!r} needs responses to the questions that are reported"
        )
    if missing := len(questions) - len(answered):
        context.log(
            f"  {set_name}: {missing} of {len(questions)} questions have no {spec.n} responses and are left out"
        )

    def missing_rows(done: Set[tuple[str, int]]) -> tuple[int, Iterator[list[Response]]]:
        rows = [row for rows in answered.values() for row in rows if row.key not in done]
        share = hosts.local_share(rows)
        return len(share), iter([share])

    stem = f"{file_stem(set_name)}.responses"
    return write_missing(context, missing_rows, folder, stem, list(questions), label="  copying", scope=set_name)


def _first(rows: list[Response], n: int) -> list[Response]:
    """The n rows with the lowest sample indices."""
    return sorted(rows, key=lambda row: row.sample_index)[:n]
