"""Questions to score predictions against: a file, or question sets of a config."""

from collections.abc import Iterator
from typing import Any

from etils import epath

from scotd_jax.config import Config
from scotd_jax.errors import InputError, list_names
from scotd_jax.rationales.importers.imported import BadRow, BadRowError, SourceRow
from scotd_jax.rationales.importers.row_readers import read_records
from scotd_jax.records import Question, from_mapping
from scotd_jax.tasks.base import SplitTask
from scotd_jax.tasks.prompt_formats import FORMATS, check_answer
from scotd_jax.tasks.question_loader import QuestionLoader, QuestionsById

_FIELDS = ("id", "text", "question", "choices", "answer", "context", "group")  # that are read of a plain row


def load_questions(name: str, config: Config | None) -> QuestionsById:
    """Returns the questions by id, each with the task whose format parses its predictions.

    Args:
      name: path of a question file if there is no config, else question sets (TASK.SPLIT), separated by commas.
      config: the config that defines the tasks.

    Raises:
      InputError: if a question cannot be read or has no gold answer, or an id occurs twice.
    """
    if config is not None:
        questions = QuestionLoader(config.tasks, config.seed).by_id(name.split(","))
    else:
        questions = _read_file(epath.Path(name))
    if not questions:
        raise InputError(f"--questions={name}: there are no questions")
    if unanswered := next((id_ for id_, (question, _) in questions.items() if question.answer is None), None):
        raise InputError(f"--questions={name}: question {unanswered!r} has no gold answer, so it cannot be scored")
    return questions


def _read_file(path: epath.Path) -> QuestionsById:
    if not path.is_file():
        raise InputError(
            f"--questions={path}: no such file; expected one question per line, or with --config a set TASK.SPLIT of it"
        )
    task = SplitTask("questions", FORMATS["scotd"], {})
    questions: dict[str, tuple[Question, SplitTask]] = {}
    for where, question in _questions(path):
        check_answer(question, where)
        if question.id in questions:
            raise InputError(f"{where}: the id {question.id!r} occurs twice; ids must be unique")
        questions[question.id] = question, task
    return questions


def _questions(path: epath.Path) -> Iterator[tuple[str, Question]]:
    for row in read_records(path):
        if isinstance(row, BadRow):
            raise InputError(f"{row.where}: {row.detail}")
        try:
            yield row.where, _question(row)
        except BadRowError as error:
            raise InputError(f"{row.where}: {error}; a question has the fields {list_names(_FIELDS)}") from None


def _question(row: SourceRow) -> Question:
    """A question record, or a plain row with at least an id and a gold answer; other fields are ignored."""
    fields: dict[str, Any] = row.value if isinstance(row.value, dict) else {}
    if {"id", "task", "split", "text"} <= fields.keys():
        return from_mapping(Question, fields, row.where)
    return Question(
        id=str(row.required("id", (str, int))),
        task="questions",
        split="",
        text=str(row.optional("text", str) or row.optional("question", str) or ""),
        choices=tuple(row.items("choices", str)) if row.has("choices") else (),
        answer=str(row.required("answer", (str, int, float))),
        group=row.optional("group", str),
        context=row.optional("context", str),
    )
