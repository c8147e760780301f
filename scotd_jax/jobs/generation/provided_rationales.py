"""Rationales that a student is given when it is asked: another model's, its own first stage's, or none that help."""

from scotd_jax.config import RationaleControl
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import Run
from scotd_jax.jobs.generation.local import Asked, Given, read_all
from scotd_jax.rationales.controls import apply_control
from scotd_jax.tasks.recipes import needs_rationale


def load_given(
    run: Run, student: str, sources: tuple[str, ...], asked: Asked, kind: RationaleControl, n: int
) -> Given | None:
    """The first n rationales of every question from the sets `sources`; None if the student's recipe reads none.

    Raises InputError if the recipe reads rationales and there are not n of them for every question, and if it reads
    none and some are named.
    """
    recipe = run.config.corpora[run.config.students[student].corpus].recipe
    if not needs_rationale(run.recipe(run.config.students[student].corpus)):
        if sources or n != 1 or kind != "own":
            raise InputError(f"student {student!r}: its recipe {recipe!r} reads no rationales, so none can be given")
        return None
    if not sources:
        raise InputError(
            f"student {student!r}: its recipe {recipe!r} reads rationales; name the sets in `rationales_from`"
        )
    found = {id_: [] for id_ in asked}
    for source in sources:
        for row in read_all(sorted(run.artefact("sample", source).path.glob("responses-*.jsonl"))):
            if row.question_id in found:
                found[row.question_id].append(row)
    for id_, rows in found.items():
        if len(rows) < n:
            raise InputError(
                f"question {id_!r}: {n} rationales are to be given to student {student!r}, but {', '.join(sources)} "
                f"hold {len(rows)}; sample them for this question set, too"
            )
    groups = ((asked[id_][0], sorted(rows, key=lambda row: row.sample_index)[:n]) for id_, rows in found.items())
    return {question.id: [row.rationale or "" for row in rows] for question, rows in apply_control(kind, groups)}


def identity(run: Run, sources: tuple[str, ...]) -> list[str]:
    """What a manifest records of the sets that were given."""
    return [run.artefact("sample", source).digest for source in sources]
