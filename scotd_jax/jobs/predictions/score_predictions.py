"""The command `score`: scores predictions of any origin against questions, without a model."""

import collections
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from scotd_jax.config import Config
from scotd_jax.errors import InputError
from scotd_jax.evaluation.answer_distribution import describe_collapse
from scotd_jax.evaluation.scoring import score
from scotd_jax.evaluation.voting import self_consistency
from scotd_jax.jobs.predictions.prediction_files import read_predictions
from scotd_jax.jobs.predictions.question_files import load_questions
from scotd_jax.rationales.importers.imported import BadRowError, ImportedResponse
from scotd_jax.rationales.importers.question_matching import NO_QUESTION, QuestionMatcher
from scotd_jax.records import Question, Response
from scotd_jax.tasks.answer_patterns import normalize_answer, parse_chat
from scotd_jax.tasks.base import LoadedTask
from scotd_jax.tasks.prompt_formats import is_correct
from scotd_jax.tasks.question_loader import QuestionsById

MOST = 0.5  # if a larger share of predictions or questions has no counterpart, the join is refused


class _Joined(NamedTuple):
    """Predictions that are joined to questions.

    Attributes:
      by_question: the responses to every question that has any, in the order of the questions.
      unmatched: the predictions that belong to no question.
      outside_format: number of answers that the format of the task does not read (`_read_answer`).
    """

    by_question: dict[str, list[Response]]
    unmatched: list[ImportedResponse]
    outside_format: int


def score_predictions(
    paths: Sequence[str], questions_name: str, config: Config | None = None, lm_eval_filter: str | None = None
) -> str:
    """Returns the scores of prediction files as text whose last line is one JSON object.

    Predictions are joined to questions by id, or by the text of the question. Questions without prediction are left
    out and counted. If questions have different numbers of predictions, only the first ones of each are scored, as many
    as the question with fewest has.

    Args:
      paths: the prediction files.
      questions_name: a question file, or with a config its question sets.
      config: the config that defines the question sets.
      lm_eval_filter: filter of lm-eval's samples.

    Raises:
      InputError: if a file cannot be read, a prediction occurs twice, or most predictions or questions are unmatched.
    """
    questions = load_questions(questions_name, config)
    rows = [row for path in paths for row in read_predictions(epath.Path(path), lm_eval_filter)]
    if not rows:
        raise InputError(f"{', '.join(paths)}: there are no predictions")
    by_question, unmatched, outside_format = _join(rows, questions)
    missing = [id_ for id_ in questions if id_ not in by_question]
    _check_join(rows, questions, unmatched, missing)
    counts = [len(group) for group in by_question.values()]
    k = min(counts)
    answered = [question for id_, (question, _) in questions.items() if id_ in by_question]
    responses = [response for group in by_question.values() for response in group[:k]]
    result: dict[str, Any] = {
        "predictions": len(rows),
        "predictions_without_question": len(unmatched),
        "questions_without_prediction": len(missing),
        **score(answered, responses),
        "unreadable": sum(response.answer is None for response in responses),
        "outside_format": outside_format,
    }
    if any(row.num_tokens is None for row in rows):
        result["mean_tokens"] = None
    if k > 1:
        result["self_consistency"] = self_consistency(answered, responses)
    lines = [*_describe_join(rows, questions, unmatched, missing), *_describe(result, k, max(counts))]
    return "\n".join([*lines, json.dumps(result)])


def _join(rows: Iterable[ImportedResponse], questions: QuestionsById) -> _Joined:
    """Joins predictions to questions. Raises InputError if a question is ambiguous, or a sample comes twice."""
    matcher = QuestionMatcher(questions)
    by_question: dict[str, list[Response]] = collections.defaultdict(list)
    unmatched, outside_format = [], 0
    for row in rows:
        try:
            id_ = matcher.find(row)
        except BadRowError as error:
            if error.reason != NO_QUESTION:
                raise InputError(f"{row.where}: {error}") from None
            unmatched.append(row)
            continue
        group = by_question[id_]
        index = len(group) if row.sample_index is None else row.sample_index
        if any(index == response.sample_index for response in group):
            raise InputError(f"{row.where}: sample {index} of question {id_!r} comes twice; expected every sample once")
        question, task = questions[id_]
        answer, is_in_format = _read_answer(row, question, task)
        outside_format += answer is not None and not is_in_format
        group.append(_response(row, index, question, answer))
    for group in by_question.values():
        group.sort(key=lambda response: response.sample_index)
    return _Joined({id_: by_question[id_] for id_ in questions if id_ in by_question}, unmatched, outside_format)


def _response(row: ImportedResponse, index: int, question: Question, answer: str | None) -> Response:
    return Response(
        question_id=question.id,
        sample_index=index,
        text=row.text or "",
        rationale=row.rationale,
        answer=answer,
        correct=is_correct(answer, question),
        finish_reason=row.finish_reason,
        logprob=0.0,
        num_tokens=row.num_tokens or 0,
        model="",
        sampling="",
    )


def _read_answer(row: ImportedResponse, question: Question, task: LoadedTask) -> tuple[str | None, bool]:
    """The answer in the question's form, and whether it is the row's own or the format of the task reads it too.

    Texts of any origin may answer in other words than the format has, so usual answer sentences and bare answers are
    read as well. The evaluate job reads answers by the format alone.
    """
    if row.parsed or row.text is None:
        return None if row.answer is None else normalize_answer(row.answer, question), True
    by_format = task.format.parse(row.text, question).answer
    if task.format.marker.strip() not in row.text:
        bare = task.format.truncate(row.text).strip()
        for answer in (parse_chat(row.text, question).answer, normalize_answer(bare, question)):
            if answer is not None:
                return answer, answer == by_format
    return by_format, True


def _check_join(
    rows: Sequence[ImportedResponse],
    questions: QuestionsById,
    unmatched: Sequence[ImportedResponse],
    missing: Sequence[str],
) -> None:
    """Raises InputError if most predictions belong to no question, or most questions have no prediction."""
    if len(unmatched) > MOST * len(rows):
        expected = next(iter(questions))
        raise InputError(
            f"{unmatched[0].where}: {_name(unmatched[0])} is no question of the set, and neither are those of "
            f"{len(unmatched) - 1} other predictions of {len(rows)}; expected ids such as {expected!r}: is this the "
            "right question file or set?"
        )
    if len(missing) > MOST * len(questions):
        raise InputError(
            f"{len(missing)} of {len(questions)} questions have no prediction, first {missing[0]!r}; an accuracy over "
            "the others would be misleading: is this the right question file or set?"
        )


def _describe_join(
    rows: Sequence[ImportedResponse],
    questions: QuestionsById,
    unmatched: Sequence[ImportedResponse],
    missing: Sequence[str],
) -> Iterator[str]:
    yield f"{len(rows)} predictions, {len(questions)} questions"
    if unmatched:
        yield f"{len(unmatched)} predictions belong to no question and are left out, first {_name(unmatched[0])}"
    if missing:
        yield f"{len(missing)} questions have no prediction and are left out, first {missing[0]!r}"


def _describe(result: dict[str, Any], k: int, most: int) -> Iterator[str]:
    if most > k:
        yield f"questions have {k} to {most} predictions; the first {k} of each are scored"
    low, high = result["interval"]
    interval = f"{100 * low:.1f} to {100 * high:.1f}, {100 * result['confidence']:g} % interval"
    yield f"accuracy {100 * result['accuracy']:.1f} % of {result['n']} questions ({interval})"
    if result["unreadable"]:
        yield f"{result['unreadable']} answers could not be read and count as wrong"
    if result["outside_format"]:
        yield f"{result['outside_format']} answers are not in the format of the task, by which the evaluate job reads"
    if collapse := describe_collapse(result["answers"]):
        yield collapse
    if votes := result.get("self_consistency"):
        low, high = votes["interval"]
        yield f"majority vote over {k}: {100 * votes['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _name(row: ImportedResponse) -> str:
    return repr(row.question_id if row.question_id is not None else row.question_text)[:100]
