"""What the configs of the papers share: where tasks and models come from, and how a chain is made small."""

import dataclasses
import pathlib
from typing import NamedTuple

from scotd_jax import config as c

INVENTED = str(pathlib.Path(__file__).parents[1] / "tests" / "invented")  # questions of our own in the official files


class Source(NamedTuple):
    """One task: its kind, the folder of its official files under the setting `data`, or its name on the Hub; and the
    splits to learn from, to choose the best checkpoint on ("": held out from the first) and to report."""

    kind: str
    folder: str
    hub: str
    train: str
    dev: str
    reported: tuple[str, ...]


TASKS = {
    "csqa": Source("commonsenseqa", "commonsenseqa", "tau/commonsense_qa", "train", "", ("dev",)),
    "obqa": Source("openbookqa", "openbookqa", "allenai/openbookqa/main", "train", "dev", ("test",)),
    "quarel": Source("quarel", "quarel", "community-datasets/quarel", "train", "dev", ("test",)),
    "arc_easy": Source("arc", "arc", "allenai/ai2_arc/ARC-Easy", "train", "dev", ("test",)),
    "arc_challenge": Source("arc", "arc", "allenai/ai2_arc/ARC-Challenge", "train", "dev", ("test",)),
    "anli": Source("anli", "anli", "facebook/anli", "train", "dev", ("test",)),
    "sst2": Source("sst2", "sst2", "stanfordnlp/sst2", "", "", ("dev",)),
    "imdb": Source("imdb", "imdb", "stanfordnlp/imdb", "train", "", ()),
    # The contrast set is not on the Hub: github.com/allenai/contrast-sets, IMDb/data.
    "imdb_contrast": Source("imdb", "imdb_contrast", "", "", "", ("test", "contrast")),
}


HELD_OUT = {"csqa": 10, "imdb": 20}  # one in so many training questions, where there is no other dev set


def task(name: str, data: str) -> c.Task:
    """The entry of a task: official files under the folder `data`, or the Hub where that is ""."""
    source = TASKS[name]
    hub = f"datasets:{source.hub}" if source.hub else f"data/{source.folder}"
    return c.Task(source.kind, path=f"{data}/{source.folder}" if data else hub)


def splits(name: str, runlocal: bool) -> tuple[str, str, tuple[str, ...]]:
    """Question sets of a task to learn from, to choose on, and to report. Nothing is chosen on a reported set."""
    source = TASKS[name]
    train, dev = source.train, source.dev
    if train and not dev:
        folds = 2 if runlocal else HELD_OUT[name]
        train, dev = f"{train}@!0/{folds}", f"{train}@0/{folds}"
    return f"{name}.{train}", f"{name}.{dev}", sets_of((name,), *source.reported)


def settings(arg: str | None, **own):
    """The settings of a config: its own, and those that all of them share."""
    shared = {
        "data": "",  # folder of official files; "" is the Hub
        "weights": "checkpoints",  # folder of Hugging Face directories; "random" needs none
        "tokenizer": "",  # of a model with random weights
        "teacher": "opt-13b",  # among the weights
        "said": "",  # files of what another teacher has said, instead
        "importer": "responses",  # that reads them
        "runlocal": False,
    }
    return c.parse_arg(arg, **shared | own)


def teacher(settings, asked: tuple[str, ...], sampling: c.Sampling, few_shot: int = 5) -> c.RationaleSource:
    """What a teacher says to the question sets `asked`: out of files, or sampled with worked examples before.

    Files hold responses to whole splits, so those are asked; a corpus of a fold takes what it needs.
    """
    if settings.said:
        asked = tuple(dict.fromkeys(name.partition("@")[0] for name in asked))
        return c.FileSource(asked, path=settings.said, importer=settings.importer)
    speaker = model(settings.teacher, settings)
    return c.ModelSource(questions=asked, model=speaker, sampling=sampling, few_shot=few_shot)


def model(name: str, settings) -> c.Model:
    """A model by its name: weights in a folder of Hugging Face directories, or, for `weights=random`, none."""
    if settings.weights == "random":
        return c.Model(architecture=name, tokenizer=settings.tokenizer)
    return c.Model(path=f"{settings.weights}/{name}")


def style(student: str) -> str:
    """The format of a student: T5 has no line ends."""
    return "scotd" if student.startswith("opt") else "t5"


def folder(settings) -> str:
    """The folder of official files; the invented ones for a local run that names none."""
    return settings.data or (INVENTED if settings.runlocal else "")


def finish(config: c.Config, settings):
    """What `get_config` returns, made small where `runlocal` is set."""
    return c.config_dict(runlocal(config) if settings.runlocal else config)


# A whole chain in about a minute: tiny models with random weights, the first questions, nothing learnt.

TINY = {
    "opt": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 64}
    | {"max_position_embeddings": 2048},
    "t5": {"d_model": 32, "num_layers": 1, "num_heads": 2, "d_kv": 16, "d_ff": 64},
}
TEACHER = "local_teacher"  # learns a task's exemplars by heart, so that it at least ends its answers


def runlocal(config: c.Config) -> c.Config:
    """The chain of `config` with a tiny teacher that was taught the exemplars, and tiny students."""
    sampled = {name: r for name, r in config.rationales.items() if isinstance(r, c.ModelSource) and not r.model.student}
    tokenizer = "task:" + ",".join(config.tasks)
    short = c.Sampling(max_new_tokens=96, batch_size=8, bucket=128)

    def tiny(model: c.Model) -> c.Model:
        if model.student:
            return model
        kind = "opt" if "opt" in (model.architecture or pathlib.Path(model.path).name) else "t5"
        return c.Model(architecture=f"{kind}-tiny", overrides=TINY[kind], tokenizer=tokenizer)

    learns = c.Optimizer("muon", 1e-2, "cosine", warmup_steps=5, b2=0.95)  # texts by heart in some dozen updates
    speakers = {r.model.student for r in config.rationales.values() if isinstance(r, c.ModelSource)}

    def brief(training: c.Training, speaks: bool) -> c.Training:
        """A few updates; more for a student that others learn from, which must at least end what it says."""
        steps, optimizer = 6, dataclasses.replace(training.optimizer, learning_rate=1e-2, warmup_steps=2)
        if speaks:
            steps, optimizer = 80, learns
        size = min(training.batch_size, 4)
        return dataclasses.replace(
            training, steps=steps, batch_size=size, microbatches=1, optimizer=optimizer, eval_every=0, log_every=5
        )

    def less(sampling: c.Sampling) -> c.Sampling:
        return dataclasses.replace(short, n=min(sampling.n, 2), temperature=sampling.temperature)

    def source_of(name: str, source: c.RationaleSource) -> c.RationaleSource:
        if isinstance(source, c.FileSource):
            return dataclasses.replace(source, options=source.options | {"subset": True})
        # Near its likeliest words a teacher that knows so little at least ends its answers.
        sampling = dataclasses.replace(less(source.sampling), temperature=0.3 * source.sampling.temperature)
        model = c.Model(student=TEACHER) if name in sampled else source.model
        return dataclasses.replace(source, sampling=sampling, few_shot=0, model=model)

    rationales = {name: source_of(name, source) for name, source in config.rationales.items()}
    students = {
        name: dataclasses.replace(s, model=tiny(s.model), training=brief(s.training, name in speakers))
        for name, s in config.students.items()
    }
    corpora = {
        name: dataclasses.replace(corpus, format="t5", keep="all", decontaminate=0, few_shot=min(corpus.few_shot, 1))
        for name, corpus in config.corpora.items()
    }
    if sampled:
        asked = dict.fromkeys(s.split(".")[0] for r in sampled.values() for s in r.questions)
        rationales[TEACHER] = c.TaskSource(questions=sets_of(asked, "exemplars"))
        corpora[TEACHER] = c.Corpus(rationales=(TEACHER,), decontaminate=0)
        students[TEACHER] = c.Student(
            model=c.Model(architecture="opt-tiny", overrides=TINY["opt"], tokenizer=tokenizer),
            corpus=TEACHER,
            training=c.Training(steps=100 + 50 * len(asked), batch_size=4, optimizer=learns),
        )
    evals = {name: dataclasses.replace(asking, n=min(asking.n, 2)) for name, asking in config.evals.items()}
    evaluation = dataclasses.replace(
        config.evaluation,
        sampling=less(config.evaluation.sampling),
        self_consistency=less(config.evaluation.self_consistency),
        dev_questions=4,
    )
    # Words made on the spot know no line ends, so every text is written without.
    tasks = {name: dataclasses.replace(t, limit=8, format="t5") for name, t in config.tasks.items()}
    changed = {"tasks": tasks, "rationales": rationales, "corpora": corpora, "students": students, "evals": evals}
    return dataclasses.replace(config, **changed, evaluation=evaluation)


def sets_of(tasks, *splits: str) -> tuple[str, ...]:
    return tuple(f"{name}.{split}" for name in tasks for split in splits)
