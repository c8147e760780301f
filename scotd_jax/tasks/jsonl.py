"""Custom tasks: a folder with one file SPLIT.jsonl per split, one `Question` record per line.

An optional file SPLIT.gold.jsonl beside it holds `Response` records with gold rationales.
"""

from etils import epath

from scotd_jax import config, records
from scotd_jax.errors import InputError
from scotd_jax.records import Question, Response
from scotd_jax.tasks.base import SplitTask, require_unique
from scotd_jax.tasks.prompt_formats import check_answer, get_prompt_format
from scotd_jax.tasks.row_files import read_lines

GOLD = ".gold"


def jsonl(name: str, task: config.Task, seed: int) -> SplitTask:
    """Loads a task of kind "jsonl".

    Raises:
      InputError: if the folder has no split. Malformed rows raise it later, when their split is loaded.
    """
    del seed
    if task.options:
        raise InputError(f"config.tasks.{name}.options.{min(task.options)}: a task of kind 'jsonl' has no options")
    if not task.path:
        raise InputError(f"config.tasks.{name}.path: a task of kind 'jsonl' needs the folder of its SPLIT.jsonl files")
    folder = epath.Path(task.path)
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    splits = {f.name.removesuffix(".jsonl"): f for f in files if not f.name.endswith(f"{GOLD}.jsonl")}
    if not splits:
        raise InputError(f"config.tasks.{name}.path: {folder} holds no file SPLIT.jsonl; expected one file per split")
    loaders = {split: (lambda path=path: _load(path)) for split, path in splits.items()}
    return SplitTask(
        name, get_prompt_format(task.format or "scotd", f"config.tasks.{name}.format"), loaders, task.limit
    )


def _load(path: epath.Path) -> tuple[list[Question], list[Response]]:
    questions = []
    for where, line in read_lines(path):
        question = records.from_json(Question, line, where)
        check_answer(question, where)
        questions.append(question)
    require_unique(questions, str(path))
    gold = path.parent / path.name.replace(".jsonl", f"{GOLD}.jsonl")
    if not gold.exists():
        return questions, []
    known = {q.id for q in questions}
    responses = []
    for where, line in read_lines(gold):
        response = records.from_json(Response, line, where)
        if response.question_id not in known:
            raise InputError(f"{where}: no question {response.question_id!r} in {path}")
        responses.append(response)
    return questions, responses
