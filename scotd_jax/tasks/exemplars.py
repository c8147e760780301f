"""Worked examples that a teacher reads before every question (few-shot prompting; SCoTD, section 2).

An exemplar is a row of its task, in any form that the task reads, with one more field, `rationale`. So the same file
serves every format and layout. Those of this package are the author's own, in exemplars/NAME.jsonl. For tasks that
are not made of rows (world, jsonl, your own) an exemplar has the fields of `Question` instead, without id, task and
split.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.records import Prompt, Question, Response, Turn, from_mapping
from scotd_jax.tasks.base import LoadedTask
from scotd_jax.tasks.prompt_formats import PromptFormat, check_answer
from scotd_jax.tasks.row_files import read_rows
from scotd_jax.tasks.row_task import RowTask, gold_response

FOLDER = epath.Path(__file__).parent / "exemplars"
SPLIT = "exemplars"


class Exemplar(NamedTuple):
    """A question with its answer, and the reasoning that leads there."""

    question: Question
    rationale: str


def exemplar_names() -> tuple[str, ...]:
    """Names of the files of this package."""
    return tuple(sorted(file.name.removesuffix(".jsonl") for file in FOLDER.glob("*.jsonl")))


def own_exemplars(task: LoadedTask) -> str:
    """The name of the exemplars that belong to a task; "" if it has none."""
    return task.exemplars if isinstance(task, RowTask) else ""


def exemplar_split(name_or_path: str, task: LoadedTask) -> tuple[list[Question], list[Response]]:
    """The exemplars as a split of the task: questions, and the task's own responses to them."""
    found = load_exemplars(name_or_path, task)
    return [x.question for x in found], [gold_response(x.question, 0, x.rationale, task.format) for x in found]


def load_exemplars(name_or_path: str, task: LoadedTask) -> list[Exemplar]:
    """The exemplars of one of `exemplar_names` or of a file, as questions of `task`, in the order of the file.

    "" is the task's own. Raises InputError on an unknown name, a broken row, and where the task's format would not read
    the answer back.
    """
    name_or_path = name_or_path or own_exemplars(task)
    path = FOLDER / f"{name_or_path}.jsonl" if name_or_path in exemplar_names() else epath.Path(name_or_path)
    if not path.exists():
        raise InputError(f"exemplars: {name_or_path!r} is neither a file nor one of {', '.join(exemplar_names())}")
    found = []
    for number, (where, fields) in enumerate(read_rows(path)):
        rationale = fields.get("rationale")
        if not isinstance(rationale, str) or not rationale.strip():
            raise InputError(f"{where}: field 'rationale' should be the reasoning that leads to the answer, as text")
        rest = {name: value for name, value in fields.items() if name != "rationale"}
        question = _question(rest, where, number, task)
        said = task.format.target(rationale, question.answer)
        if question.answer is None or task.format.parse(said, question) != (rationale.strip(), question.answer):
            raise InputError(
                f"{where}: the format reads the answer {question.answer!r} not back from {said!r}; every exemplar "
                "needs an answer, and a rationale without the format's marker and stop string"
            )
        found.append(Exemplar(question, rationale))
    if not found:
        raise InputError(f"{path}: holds no exemplars; expected one per line")
    return found


def few_shot_prefix(prompt_format: PromptFormat, exemplars: Sequence[Exemplar]) -> str:
    """What comes before the prompt of a question: prompt and target of every exemplar, one after the other.

    They are parted by the format's end string, or a blank where it has none.
    """
    parts = (prompt_format.prompt(x.question) + prompt_format.target(x.rationale, x.question.answer) for x in exemplars)
    return "".join(part if prompt_format.end else f"{part} " for part in parts)


def few_shot_turns(prompt_format: PromptFormat, exemplars: Sequence[Exemplar]) -> tuple[Turn, ...]:
    """The same for a chat: every exemplar is a question of the user and an answer that the model has given before.

    The end of a turn is the end of what is said, so the format's own end is left out.
    """
    turns: list[Turn] = []
    for exemplar in exemplars:
        said = prompt_format.target(exemplar.rationale, exemplar.question.answer)
        turns.append({"role": "user", "content": prompt_format.prompt(exemplar.question)})
        turns.append({"role": "assistant", "content": said.removesuffix(prompt_format.end)})
    return tuple(turns)


def join_prompt(before: Prompt, ask: str) -> Prompt:
    """A whole prompt: `ask` after what `few_shot_prefix` or, for a chat, `few_shot_turns` has made."""
    return before + ask if isinstance(before, str) else (*before, {"role": "user", "content": ask})


def _question(fields: Mapping[str, Any], where: str, number: int, task: LoadedTask) -> Question:
    if isinstance(task, RowTask):
        return task.to_question(task.row(fields, where, SPLIT, number))
    named = {"id": f"{task.name}/{SPLIT}/{number}", "task": task.name, "split": SPLIT}
    question = from_mapping(Question, {**fields, **named}, where)
    check_answer(question, where)
    return question
