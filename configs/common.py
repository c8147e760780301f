"""Tasks, models and settings that the configs of the papers share."""

import dataclasses
import pathlib
from typing import NamedTuple

from scotd_jax import config as c
from scotd_jax.errors import InputError, did_you_mean
from scotd_jax.hub.hub_names import CHAT_MODELS, HUB_NAMES, preset_name, short_name

INVENTED_DATA = str(pathlib.Path(__file__).parent / "data")  # a few invented questions in the official file formats


class TaskSplits(NamedTuple):
    """Source of a task, and which of its splits are used for training, selection and report."""

    kind: str  # Task.kind
    folder: str  # folder of its official files under the setting `data`
    hub: str  # name on the Hugging Face Hub; "" if it has none
    train: str  # split to train on
    dev: str  # split on which checkpoints are chosen; "" holds out a part of the training split
    reported: tuple[str, ...]  # splits to evaluate on and report


TASKS = {
    "csqa": TaskSplits("commonsenseqa", "commonsenseqa", "tau/commonsense_qa", "train", "", ("dev",)),
    "obqa": TaskSplits("openbookqa", "openbookqa", "allenai/openbookqa/main", "train", "dev", ("test",)),
    "quarel": TaskSplits("quarel", "quarel", "community-datasets/quarel", "train", "dev", ("test",)),
    "arc_easy": TaskSplits("arc", "arc", "allenai/ai2_arc/ARC-Easy", "train", "dev", ("test",)),
    "arc_challenge": TaskSplits("arc", "arc", "allenai/ai2_arc/ARC-Challenge", "train", "dev", ("test",)),
    "anli": TaskSplits("anli", "anli", "facebook/anli", "train", "dev", ("test",)),
    "sst2": TaskSplits("sst2", "sst2", "stanfordnlp/sst2", "", "", ("dev",)),
    "imdb": TaskSplits("imdb", "imdb", "stanfordnlp/imdb", "train", "", ()),
    # The contrast set is not on the Hub: github.com/allenai/contrast-sets, IMDb/data.
    "imdb_contrast": TaskSplits("imdb", "imdb_contrast", "", "", "", ("test", "contrast")),
}
HELD_OUT = {"csqa": 10, "imdb": 20}  # for tasks without dev split: one in this many training questions is held out


def parse_settings(arg: str | None, **own):
    """Parses the settings after the colon of --config.

    Args:
      arg: the settings as text.
      **own: the config's own settings with their defaults.

    Returns:
      The config's own settings and those that all configs share.
    """
    shared = {
        "student": "",  # same values as `teacher`; every config has its own default
        "data": "",  # folder of official files; "" is the Hub
        "weights": "",  # "" is the Hub; or a folder with one Hugging Face directory per name; or "random"
        "tokenizer": "",  # tokenizer of models with random weights
        "teacher": "opt-13b",  # a name of scotd_jax/hub/hub_names.py, a Hub name, a folder, or a name on the server
        "server": "",  # the teacher runs on a server: its URL, http://HOST:PORT/v1; or "batch" for batch files
        "server_kind": "auto",  # completions, chat, or "auto": chat if the teacher is known to be instruction-tuned
        "key_env": "",  # NAME of the environment variable that holds the server's API key
        "chat": "auto",  # prompt the student with its chat template: on, off, or "auto": if it is instruction-tuned
        "responses": "",  # files with responses to import, instead of sampling from the teacher
        "test_responses": "",  # files with responses to the reported questions, to report their teacher as well
        "importer": "responses",  # format of these files
        "push": "",  # Hub repository of the exported student, OWNER/NAME; of several students, OWNER/NAME-STUDENT
        "runlocal": False,  # small models and few questions, to try the config in about a minute
    }
    return c.parse_arg(arg, **shared | own)


def data_folder(settings) -> str:
    """Returns the folder of official files. The default with `runlocal` is the folder of invented questions."""
    return settings.data or (INVENTED_DATA if settings.runlocal else "")


def task(name: str, data: str) -> c.Task:
    """Returns the config of a task with official files in the folder `data`, or from the Hub if `data` is ""."""
    source = TASKS[name]
    hub = f"datasets:{source.hub}" if source.hub else f"data/{source.folder}"
    return c.Task(source.kind, path=f"{data}/{source.folder}" if data else hub)


def splits(name: str, runlocal: bool) -> tuple[str, str, tuple[str, ...]]:
    """Returns the question sets of a task: for training, for choosing checkpoints, and for the report."""
    source = TASKS[name]
    train, dev = source.train, source.dev
    if train and not dev:
        folds = 2 if runlocal else HELD_OUT[name]
        train, dev = f"{train}@!0/{folds}", f"{train}@0/{folds}"
    return f"{name}.{train}", f"{name}.{dev}", question_sets((name,), *source.reported)


def question_sets(tasks, *splits: str) -> tuple[str, ...]:
    """Returns the names of question sets: every split of every task."""
    return tuple(f"{name}.{split}" for name in tasks for split in splits)


def model(name: str, settings) -> c.Model:
    """Returns the config of a model. `name` is a key of `HUB_NAMES`, a Hub name or a folder; see `weights`."""
    chat = uses_chat(settings) if name == settings.student else short_name(name) in CHAT_MODELS
    if settings.weights == "random":
        return c.Model(architecture=preset_name(name), tokenizer=settings.tokenizer, chat=chat)
    if settings.weights:
        return c.Model(path=f"{settings.weights}/{name}", chat=chat)
    if "/" not in name and name not in HUB_NAMES:
        hint = did_you_mean(name, HUB_NAMES)
        raise InputError(f"model {name!r} is unknown; {hint} A Hub name (OWNER/NAME) or a folder has a '/'")
    return c.Model(path=HUB_NAMES.get(name, name), chat=chat)


def uses_chat(settings) -> bool:
    """Returns whether the student is prompted with its chat template; see the setting `chat`."""
    values = {"auto": short_name(settings.student) in CHAT_MODELS, "on": True, "off": False}
    if settings.chat not in values:
        raise InputError(f"--config=...: chat={settings.chat}: expected {', '.join(values)}")
    return values[settings.chat]


def prompt_format(settings) -> str:
    """Returns the prompt format of the student. T5 has its own, since its tokenizer drops newlines."""
    if uses_chat(settings):
        return "chat"
    return "t5" if "t5" in short_name(settings.student).lower() else "scotd"


def teacher(settings, questions: tuple[str, ...], sampling: c.Sampling, few_shot: int = 5) -> c.RationaleSource:
    """Returns the teacher's responses: imported from files, or sampled here or on a server with few-shot examples.

    Files contain responses to complete splits, so for a fold the complete split is imported. The corpus selects its
    questions later.
    """
    _check_server(settings)
    if settings.responses:
        questions = tuple(dict.fromkeys(name.partition("@")[0] for name in questions))
        return c.FileSource(questions, path=settings.responses, importer=settings.importer)
    # Some instruction-tuned teachers generate a <think> block first; "strip" has no effect on others.
    if settings.server:
        server = _server(settings)
        think = "strip" if server.kind == "chat" else ""
        kind = c.ServerSource if server.url else c.BatchSource
        return kind(questions, server=server, sampling=sampling, few_shot=few_shot, think=think)
    named = model(settings.teacher, settings)
    return c.ModelSource(questions, named, sampling, few_shot=few_shot, think="strip" if named.chat else "")


def _server(settings) -> c.Server:
    """Returns the server of the teacher, whose name there is its Hub name unless `teacher` has no short name."""
    kind = settings.server_kind
    if kind == "auto":
        kind = "chat" if short_name(settings.teacher) in CHAT_MODELS else "completions"
    url = "" if settings.server == "batch" else settings.server
    return c.Server(url, HUB_NAMES.get(settings.teacher, settings.teacher), kind, key_env=settings.key_env)


def _check_server(settings) -> None:
    kinds = ("auto", "completions", "chat")
    if settings.server_kind not in kinds:
        raise InputError(f"--config=...: server_kind={settings.server_kind}: expected {', '.join(kinds)}")
    if settings.server and settings.responses:
        raise InputError(
            f"--config=...: server={settings.server} generates the teacher's responses, but they are imported from "
            f"{settings.responses}; remove one of the two"
        )
    if not settings.server and (settings.key_env or settings.server_kind != "auto"):
        raise InputError("--config=...: key_env and server_kind are for teachers on a server; set server too")


def with_references(config: c.Config, settings, student: str, few_shot: int = 5) -> c.Config:
    """Adds the arms before distillation: a student's model before training, zero-shot and few-shot, and the teacher.

    Imported files are a teacher's arm only if they contain the reported questions (`test_responses`).

    Args:
      config: the config.
      settings: its settings.
      student: name of the student whose model and prompt format are used.
      few_shot: examples before every question, for the few-shot arms.
    """
    reported = config.students[student].eval_sets
    before = c.EvalSpec(student, reported, checkpoint="initial")
    evals = {
        "untrained": dataclasses.replace(before, arm="untrained, zero-shot", few_shot=0),
        "untrained_few_shot": dataclasses.replace(before, arm="untrained, few-shot", few_shot=few_shot),
    }
    rationales = {}
    if settings.test_responses:
        source = c.FileSource(reported, path=settings.test_responses, importer=settings.importer)
        rationales["teacher_reported"] = dataclasses.replace(source, options={"subset": True})
    elif not settings.responses:
        rationales["teacher_reported"] = teacher(settings, reported, c.Sampling(temperature=0.0), few_shot)
    if rationales:
        evals["teacher"] = c.EvalSpec(eval_sets=reported, arm="teacher, few-shot", responses="teacher_reported")
    return dataclasses.replace(config, rationales=config.rationales | rationales, evals=config.evals | evals)


def finish(config: c.Config, settings):
    """Returns the result of `get_config`, reduced if `runlocal` is set."""
    exported = [name for name, student in config.students.items() if student.export]
    if settings.push:
        repositories = {name: settings.push + (f"-{name}" if len(exported) > 1 else "") for name in exported}
        push_to_hub = {f"export {name}": repository for name, repository in repositories.items()}
        config = dataclasses.replace(config, push_to_hub=push_to_hub)
    if settings.runlocal:
        config = c.sibling(__file__, "runlocal").reduce(config, settings.student)
    return c.config_dict(config)
