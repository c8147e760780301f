"""The tiny version of a config (setting `runlocal`): all jobs in about a minute, with meaningless accuracies.

Students have random weights, a few units and the architecture of the model that the setting `student` names; questions
are the first of their files. A tiny teacher takes the place of a local one; servers and files stay.
"""

import dataclasses

from scotd_jax import config as c
from scotd_jax.errors import InputError, did_you_mean
from scotd_jax.hub.hub_names import HUB_NAMES, preset_name

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
    if isinstance(source, c.RemoteSource):
        return dataclasses.replace(source, sampling=dataclasses.replace(source.sampling, n=min(source.sampling.n, 2)))
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
