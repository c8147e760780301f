"""The embedded world: a teacher, thirty samples per question, and students with and without rationales, in minutes.

    scotd-jax --config=world --workdir=runs/world

The teacher is trained in the same run, on gold rationales of the world. All arms of an architecture start from the same
weights and make the same number of updates. The learning rate of every arm and the reported checkpoint are chosen on
the dev set.
"""

import dataclasses

from scotd_jax import config as c

SETS = ("test", "contrast", "unseen", "longer")
TEMPERATURE = 1.3  # at which 9 of 10 responses are correct, so that the filter has an effect
SAMPLING = c.Sampling(max_new_tokens=64, batch_size=128, bucket=40)
TEACHER = {
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "ffn_dim": 384,
    "max_position_embeddings": 128,
}
STUDENT = {
    "opt": TEACHER | {"hidden_size": 64, "num_attention_heads": 2, "ffn_dim": 256},
    # With T5's default initialization, which is for pretraining on billions of tokens, a small model memorizes its
    # questions.
    "t5": {"d_model": 64, "num_layers": 2, "num_heads": 2, "d_kv": 32, "d_ff": 256, "initializer_factor": 0.03},
}
ARMS = {  # name: (row of the report, set of responses, first n of them)
    "label": ("label only", "", 0),
    "greedy": ("one greedy chain", "greedy", 1),
    "n1": ("SCoTD, N = 1", "sampled", 1),
    "n5": ("SCoTD, N = 5", "sampled", 5),
    "n30": ("SCoTD, N = 30", "sampled", 30),
}
UNTRAINED = "untrained, zero-shot"  # row of the report; in the world, students start from random weights
QUESTIONS = 350  # questions to train on
UPDATES = {"opt": 1200, "t5": 1500}
# Peak learning rates of arms for which 1e-2 was not the best on the dev set of seed 0.
RATES = {"opt": {"label": 5e-3}, "t5": {"label": 3e-3}}


def training(steps: int, batch_size: int, group_size: int, rate: float) -> c.Training:
    """Returns the training settings of all models of the world."""
    optimizer = c.Optimizer("muon", rate, "cosine", warmup_steps=steps // 15, b2=0.95, weight_decay=0.1)
    return c.Training(
        steps,
        batch_size,
        group_size,
        optimizer=optimizer,
        log_every=50,
        eval_every=max(1, steps // 4),
        # The texts have similar lengths, so length balancing is off, as in the published results.
        balance_window=1,
        max_shapes=1,
    )


def second_stage_model(model: c.Model) -> c.Model:
    """Returns the model with enough positions for the prompts of a second stage, which contain a rationale."""
    if "max_position_embeddings" not in model.overrides:  # T5 has relative positions
        return model
    return dataclasses.replace(model, overrides=model.overrides | {"max_position_embeddings": 256})


def get_config(arg=None):
    settings = c.parse_arg(arg, seed=0, runlocal=False)
    config = world(settings.seed, {"opt": tuple(ARMS), "t5": ("label", "n30")})
    return c.config_dict(runlocal(config) if settings.runlocal else config)


def world(seed: int, arms: dict[str, tuple[str, ...]], prefix: str = "") -> c.Config:
    """Returns the config of a world: teacher, responses, corpora, students and evaluations.

    Args:
      seed: seed of the world, the teacher and the students.
      arms: the arms of each architecture ("opt", "t5").
      prefix: prefix of all names, to combine several worlds in one config.
    """
    task, teacher = f"{prefix}world", f"{prefix}teacher"

    def sampled(**sampling) -> c.ModelSource:
        return c.ModelSource(
            questions=(f"{task}.train",),
            model=c.Model(student=teacher),
            sampling=dataclasses.replace(SAMPLING, **sampling),
            seed=seed,
        )

    rationales = {
        "gold": c.TaskSource(questions=(f"{task}.gold",)),
        "sampled": sampled(n=30, temperature=TEMPERATURE, batch_size=8, chunk=4),
        "greedy": sampled(temperature=0.0),
    }
    corpora = {"gold": c.Corpus(rationales=(f"{prefix}gold",), decontaminate=0)}
    students = {
        "teacher": c.Student(
            model=c.Model(architecture="opt-tiny", overrides=TEACHER, tokenizer=f"task:{task}"),
            corpus=f"{prefix}gold",
            training=training(900, 16, 1, 1e-2),
            dev_sets=(f"{task}.dev",),
            eval_sets=tuple(f"{task}.{split}" for split in SETS),
            seed=seed,
        )
    }
    for kind, arm in ((kind, arm) for kind, names in arms.items() for arm in names):
        title, source, n = ARMS[arm]
        corpora[f"{arm}_{kind}"] = c.Corpus(
            rationales=(f"{prefix}{source}",) if source else (),
            questions=(f"{task}.train",),
            recipe="scotd" if source else "label",
            n=n,
            decontaminate=0,  # evaluation questions are new by construction, but all questions share their wording
        )
        students[f"{arm}_{kind}"] = c.Student(
            model=c.Model(architecture=f"{kind}-tiny", overrides=STUDENT[kind], tokenizer=f"task:{task}"),
            corpus=f"{prefix}{arm}_{kind}",
            training=training(UPDATES[kind], 16, 2, RATES[kind].get(arm, 1e-2)),
            dev_sets=(f"{task}.dev",),
            eval_sets=tuple(f"{task}.{split}" for split in SETS),
            arm=title,
            seed=seed,
            export=arm == "n30",
        )
    # There is no few-shot arm before training: examples and question are longer than the students' 128 positions.
    evals = {
        f"untrained_{kind}": c.EvalSpec(
            f"{prefix}{names[-1]}_{kind}", tuple(f"{task}.{split}" for split in SETS), UNTRAINED, checkpoint="initial"
        )
        for kind, names in arms.items()
    }
    return c.Config(
        name="The embedded world",
        tasks={task: c.Task(kind="world", seed=seed, title="world", options={"train": QUESTIONS})},
        rationales={f"{prefix}{name}": value for name, value in rationales.items()},
        corpora={f"{prefix}{name}": value for name, value in corpora.items()},
        students={f"{prefix}{name}": value for name, value in students.items()},
        evals={f"{prefix}{name}": value for name, value in evals.items()},
        evaluation=c.Evaluation(sampling=dataclasses.replace(SAMPLING, temperature=0.0), dev_questions=128),
    )


def runlocal(config: c.Config, arms: tuple[str, ...] = (ARMS["label"][0], ARMS["n30"][0])) -> c.Config:
    """Returns the config with few questions and updates, which runs in about a minute with meaningless accuracies.

    Args:
      config: the complete config.
      arms: rows of the report to keep; () for all.
    """
    students = {
        # The responses of the teacher must at least contain an answer, or the corpora of its students would be empty.
        name: dataclasses.replace(student, training=training(160 if "teacher" in name else 20, 8, 2, 1e-2))
        for name, student in config.students.items()
        if not arms or not student.arm or student.arm in arms
    }
    corpora = {
        name: dataclasses.replace(corpus, keep="all")
        for name, corpus in config.corpora.items()
        if any(student.corpus == name for student in students.values())
    }
    small = {"train": 16, "dev": 8, "test": 8, "unseen": 8, "longer": 8, "gold": 64, "statements": 8}
    tasks = {name: dataclasses.replace(task, options=small) for name, task in config.tasks.items()}
    return dataclasses.replace(config, tasks=tasks, corpora=corpora, students=students)
