"""Few-shot examples for teachers (SCoTD, section 2).

An exemplar is a row of its task with one more field, `rationale`, so one file serves every prompt format and layout.
The exemplars of this package are in exemplars/NAME.jsonl. For tasks that are not made of rows (world, jsonl, custom
tasks), an exemplar has the fields of `Question` except id, task and split.
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
    """A question with its gold answer and a rationale that leads to it."""

    question: Question
    rationale: str


def load_exemplars(name_or_path: str, task: LoadedTask) -> list[Exemplar]:
    """Loads exemplars as questions of a task, in the order of the file.

    Args:
      name_or_path: one of `exemplar_names`, a file, or "" for the task's default exemplars.
      task: the task whose row format and prompt format apply.

    Raises:
      InputError: on an unknown name, a malformed row, or an exemplar whose target the task's format does not parse back
        into its rationale and answer.
    """
    name_or_path = name_or_path or default_exemplars(task)
    path = FOLDER / f"{name_or_path}.jsonl" if name_or_path in exemplar_names() else epath.Path(name_or_path)
    if not path.exists():
        raise InputError(f"exemplars: {name_or_path!r} is neither a file nor one of {', '.join(exemplar_names())}")
    exemplars = []
    for number, (where, fields) in enumerate(read_rows(path)):
        rationale = fields.get("rationale")
        if not isinstance(rationale, str) or not rationale.strip():
            raise InputError(f"{where}: field 'rationale' should be the reasoning that leads to the answer, as text")
        rest = {name: value for name, value in fields.items() if name != "rationale"}
        question = _question(rest, where, number, task)
        target = task.format.target(rationale, question.answer)
        if question.answer is None or task.format.parse(target, question) != (rationale.strip(), question.answer):
            raise InputError(
                f"{where}: the prompt format does not parse the answer {question.answer!r} back from {target!r}; every "
                "exemplar needs an answer, and a rationale without the format's marker and stop string"
            )
        exemplars.append(Exemplar(question, rationale))
    if not exemplars:
        raise InputError(f"{path}: holds no exemplars; expected one per line")
    return exemplars


def exemplar_names() -> tuple[str, ...]:
    """Returns the names of the exemplar files of this package."""
    return tuple(sorted(file.name.removesuffix(".jsonl") for file in FOLDER.glob("*.jsonl")))


def default_exemplars(task: LoadedTask) -> str:
    """Returns the name of a task's default exemplars; "" if it has none."""
    return task.exemplars if isinstance(task, RowTask) else ""


def exemplar_split(name_or_path: str, task: LoadedTask) -> tuple[list[Question], list[Response]]:
    """Returns the exemplars as a split of the task: questions and their gold responses."""
    exemplars = load_exemplars(name_or_path, task)
    responses = [gold_response(x.question, 0, x.rationale, task.format) for x in exemplars]
    return [x.question for x in exemplars], responses


def few_shot_prefix(prompt_format: PromptFormat, exemplars: Sequence[Exemplar]) -> str:
    """Returns the text before a question's prompt: prompt and target of each exemplar in turn.

    Exemplars are separated by the format's end string, or by a space if it has none.
    """
    parts = (prompt_format.prompt(x.question) + prompt_format.target(x.rationale, x.question.answer) for x in exemplars)
    return "".join(part if prompt_format.end else f"{part} " for part in parts)


def few_shot_turns(prompt_format: PromptFormat, exemplars: Sequence[Exemplar]) -> tuple[Turn, ...]:
    """Returns the exemplars as chat turns: a user turn and an assistant turn each.

    The chat template ends each turn, so the format's end string is left out.
    """
    turns: list[Turn] = []
    for exemplar in exemplars:
        target = prompt_format.target(exemplar.rationale, exemplar.question.answer)
        turns.append({"role": "user", "content": prompt_format.prompt(exemplar.question)})
        turns.append({"role": "assistant", "content": target.removesuffix(prompt_format.end)})
    return tuple(turns)


def join_prompt(few_shot: Prompt, prompt: str) -> Prompt:
    """Appends a question's prompt to the result of `few_shot_prefix` or, for a chat, of `few_shot_turns`."""
    return few_shot + prompt if isinstance(few_shot, str) else (*few_shot, {"role": "user", "content": prompt})


def _question(fields: Mapping[str, Any], where: str, number: int, task: LoadedTask) -> Question:
    if isinstance(task, RowTask):
        return task.to_question(task.row(fields, where, SPLIT, number))
    named = {"id": f"{task.name}/{SPLIT}/{number}", "task": task.name, "split": SPLIT}
    question = from_mapping(Question, {**fields, **named}, where)
    check_answer(question, where)
    return question
