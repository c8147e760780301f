"""The score job: scores of responses under a student, for the selections of corpora that compare them."""

import itertools
from collections.abc import Iterator, Set

from etils import epath

from scotd_jax.config import Model
from scotd_jax.digests import file_digest
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.local import PromptedModel, load_prompted_model
from scotd_jax.jobs.generation.prompting import prompt_settings
from scotd_jax.jobs.generation.rationale_scoring import score_rationales
from scotd_jax.jobs.generation.writing import write_missing
from scotd_jax.jobs.graph import scored_sources
from scotd_jax.jobs.preparation import manifests
from scotd_jax.rationales.store import read_responses
from scotd_jax.rationales.student_scores import StudentScores
from scotd_jax.records import Response


def score(context: RunContext, name: str) -> None:
    """Makes scores/NAME: SET.scores.jsonl for every set of responses of the corpora with `scored_by` NAME.

    Complete responses with a rationale and an answer are scored, unless they exceed the limits of the student's corpus.
    If the config adds or drops sets, the files of the other sets are kept.

    Raises:
      InputError: if a set has no response that can be scored.
    """
    artefact, sources = context.artefact("score", name), scored_sources(context.config, name)
    if not artefact.begin(manifests.scores_identity(context, name, sources), manifests.BY_SOURCE):
        context.log("  already complete")
        return
    student, settings = context.config.students[name], prompt_settings(context.config, Model(student=name))
    model = load_prompted_model(context, name, Model(student=name), student.precision, settings)
    paths = [_score_set(context, model, name, source, artefact.path) for source in sources]
    counts = {source: path.read_bytes().count(b"\n") for source, path in zip(sources, paths, strict=True)}
    context.log("  " + ", ".join(f"{source}: {count} responses scored" for source, count in counts.items()))
    if empty := [source for source, count in counts.items() if not count]:
        raise InputError(
            f"{artefact.path}: no response of {empty[0]!r} can be scored; expected complete responses with a rationale "
            f"and an answer, within the limits of config.corpora.{student.corpus}"
        )
    artefact.finish(counts, {path.name: file_digest(path) for path in paths})


def _score_set(context: RunContext, model: PromptedModel, student: str, source: str, folder: epath.Path) -> epath.Path:
    """Scores the responses of a set that have no scores yet, and returns the file with all scores."""
    questions = context.questions.by_id(context.config.rationales[source].questions)
    limits = context.config.corpora[context.config.students[student].corpus]
    responses = [row for row in read_responses(context.response_files(source)) if _is_complete(row)]

    def missing(done: Set[tuple[str, int]]) -> tuple[int, Iterator[list[StudentScores]]]:
        rows = (row for row in responses if row.key not in done)
        share = context.data_group.share(
            [list(group) for _, group in itertools.groupby(rows, key=lambda row: row.question_id)]
        )
        sampling = context.config.evaluation.sampling
        batches = score_rationales(model, questions, share, limits, sampling, context.sampling_mesh)
        return sum(map(len, share)), batches

    stem, label = f"{source}.scores", f"  {student}, scores"
    (path,) = write_missing(
        context, missing, folder, stem, list(questions), by_group=True, label=label, scope=source, kind=StudentScores
    )
    return path


def _is_complete(row: Response) -> bool:
    return row.finish_reason == "stop" and row.has_rationale and row.answer is not None
