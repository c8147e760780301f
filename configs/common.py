"""Tasks, models and settings that the configs of the papers share, and the tiny version of a config for `runlocal`."""

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
        "teacher": "opt-13b",  # a name of scotd_jax/hub/hub_names.py, a Hub name, or the folder of a model
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
    """Returns the teacher's responses: imported from files, or sampled with few-shot examples.

    Files contain responses to complete splits, so for a fold the complete split is imported. The corpus selects its
    questions later.
    """
    if settings.responses:
        questions = tuple(dict.fromkeys(name.partition("@")[0] for name in questions))
        return c.FileSource(questions, path=settings.responses, importer=settings.importer)
    named = model(settings.teacher, settings)
    # Some instruction-tuned teachers generate a <think> block first; "strip" has no effect on others.
    return c.ModelSource(questions, named, sampling, few_shot=few_shot, think="strip" if named.chat else "")


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
    return c.config_dict(reduce(config, settings.student) if settings.runlocal else config)


# `runlocal`: all jobs in about a minute, with tiny models, random weights and the first questions. The accuracies are
# meaningless.

# Sizes by kind of architecture; all other fields are those of the setting `student`.
TINY = {
    "opt": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 64}
    | {"max_position_embeddings": 2048},
    "t5": {"d_model": 32, "num_layers": 1, "num_heads": 2, "d_kv": 16, "d_ff": 64},
    "decoder": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    | {"intermediate_size": 64},
}
LOCAL_TEACHER = "local_teacher"  # name of the tiny teacher, its corpus and its recipe
# The teacher memorizes a sentence with the gold answer for every question that it is prompted with. All sentences have
# the same beginning and the marker, so its responses contain an answer whatever it has memorized.
MEMORIZED = c.Recipe({"train": c.Part(target="It must be {choice}{marker}{gold}")})
OVERFIT = c.Optimizer("muon", 1e-2, "cosine", warmup_steps=5, b2=0.95)  # memorizes texts within a few dozen updates
SHORT = c.Sampling(max_new_tokens=96, batch_size=8, bucket=128)
MAX_SHAPES = 2  # with so few updates most time is compilation, so rows are packed into as few shapes as possible


def reduce(config: c.Config, student: str) -> c.Config:
    """Returns `config` with tiny students, and with a tiny teacher trained on the questions of its sources.

    Students have the architecture of the model `student`, and use chat templates if they do so in `config`.
    """
    tokenizer = "task:" + ",".join(config.tasks)
    sampled = {
        name: source
        for name, source in config.rationales.items()
        if isinstance(source, c.ModelSource) and not source.model.student
    }
    generating = {source.model.student for source in config.rationales.values() if isinstance(source, c.ModelSource)}
    rationales = {name: _reduce_source(source, name in sampled) for name, source in config.rationales.items()}
    students = {
        name: dataclasses.replace(
            spec,
            model=_reduce_model(spec.model, student, tokenizer),
            training=_reduce_training(spec.training, name in generating),
            # In folders of Qwen 2 transformers always creates Qwen's own tokenizer, never a word-level one.
            export=spec.export and not preset_name(student).startswith("qwen2"),
        )
        for name, spec in config.students.items()
    }
    corpora = {
        name: dataclasses.replace(
            corpus,
            # The word-level tokenizer has no newlines, so all texts use a format without them.
            format="chat" if corpus.format == "chat" else "t5",
            keep="all",
            decontaminate=0,
            few_shot=min(corpus.few_shot, 1),
        )
        for name, corpus in config.corpora.items()
    }
    recipes = config.recipes
    if sampled:
        # A fold and the rest of its split would contain the questions twice.
        names = dict.fromkeys(name.partition("@")[0] for source in sampled.values() for name in source.questions)
        tasks = {name.split(".")[0] for name in names}
        recipes = recipes | {LOCAL_TEACHER: MEMORIZED}
        corpora[LOCAL_TEACHER] = c.Corpus(LOCAL_TEACHER, questions=tuple(names), decontaminate=0)
        students[LOCAL_TEACHER] = c.Student(
            model=c.Model(architecture="opt-tiny", overrides=TINY["opt"], tokenizer=tokenizer),
            corpus=LOCAL_TEACHER,
            training=c.Training(steps=50 + 50 * len(tasks), batch_size=4, max_shapes=MAX_SHAPES, optimizer=OVERFIT),
        )
    return dataclasses.replace(
        config,
        tasks={name: dataclasses.replace(t, limit=8, format="t5", tokenizer="") for name, t in config.tasks.items()},
        recipes=recipes,
        rationales=rationales,
        corpora=corpora,
        students=students,
        evals={
            name: dataclasses.replace(spec, n=min(spec.n, 2), few_shot=min(spec.few_shot, 1))
            for name, spec in config.evals.items()
        },
        evaluation=dataclasses.replace(
            config.evaluation,
            sampling=_reduce_sampling(config.evaluation.sampling),
            self_consistency=_reduce_sampling(config.evaluation.self_consistency),
            dev_questions=4,
        ),
    )


def _reduce_source(source: c.RationaleSource, from_local_teacher: bool) -> c.RationaleSource:
    if isinstance(source, c.FileSource):
        return dataclasses.replace(source, options=source.options | {"subset": True})
    # At a low temperature the responses of models with so little training at least contain an answer.
    sampling = dataclasses.replace(_reduce_sampling(source.sampling), temperature=0.3 * source.sampling.temperature)
    model = c.Model(student=LOCAL_TEACHER) if from_local_teacher else source.model
    return dataclasses.replace(source, sampling=sampling, few_shot=0, model=model)


def _reduce_model(model: c.Model, name: str, tokenizer: str) -> c.Model:
    if model.student:
        return model
    architecture = preset_name(name)
    if architecture not in map(preset_name, HUB_NAMES):
        raise InputError(
            f"runlocal: the architecture of student {name!r} is unknown; {did_you_mean(architecture, HUB_NAMES)}"
        )
    kind = "opt" if architecture.startswith("opt") else "t5" if "t5" in architecture else "decoder"
    return c.Model(architecture=architecture, overrides=TINY[kind], tokenizer=tokenizer, chat=model.chat)


def _reduce_training(training: c.Training, generates: bool) -> c.Training:
    """Returns training with few updates; more for students that generate, whose responses must contain an answer."""
    steps, optimizer = 6, dataclasses.replace(training.optimizer, learning_rate=1e-2, warmup_steps=2)
    if generates:
        steps, optimizer = 80, OVERFIT
    size = min(training.batch_size, 4)
    return dataclasses.replace(
        training,
        steps=steps,
        batch_size=size,
        microbatches=1,
        max_shapes=min(training.max_shapes, MAX_SHAPES),
        optimizer=optimizer,
        eval_every=0,
        log_every=5,
    )


def _reduce_sampling(sampling: c.Sampling) -> c.Sampling:
    return dataclasses.replace(SHORT, n=min(sampling.n, 2), temperature=sampling.temperature)
