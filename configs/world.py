"""The embedded world: a teacher, thirty samples a question, and students with and without reasons, in minutes.

    python -m scotd_jax.main --config=configs/world.py --workdir=runs/world

Everything that is trained is a student here, the teacher and the base models too: the teacher learns from the world's
own reasoning, a base from plain statements of facts (no questions), and every arm starts from the base of its kind.
All arms of a kind make the same number of updates; each has the learning rate that suited it best on dev.
"""

import dataclasses

from scotd_jax import config as c

SETS = ("test", "contrast", "unseen", "longer")
TEACHER = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "ffn_dim": 384}
STUDENT = {
    "opt": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 256},
    "t5": {"d_model": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2, "d_kv": 32, "d_ff": 256},
}
ARMS = {  # name: (title, set of responses, first n of them)
    "label": ("label only", "", 0),
    "greedy": ("one greedy chain", "greedy", 1),
    "n1": ("SCoTD, N = 1", "sampled", 1),
    "n5": ("SCoTD, N = 5", "sampled", 5),
    "n30": ("SCoTD, N = 30", "sampled", 30),
}
RATES = {"label": 3e-3, "greedy": 5e-3}  # peak learning rate; 1e-2 where none is given


def get_config(arg=None):
    a = c.parse_arg(arg, seed=0, t5=True, runlocal=False)
    config = world(a.seed, ("opt", "t5") if a.t5 else ("opt",))
    return c.config_dict(runlocal(config) if a.runlocal else config)


def world(seed: int, kinds: tuple[str, ...] = ("opt", "t5"), prefix: str = "") -> c.Config:
    """The whole chain on the world of one seed. `prefix` tells the parts of several worlds in one config apart."""
    task, teacher = f"{prefix}world", f"{prefix}teacher"
    speak = c.Sampling(max_new_tokens=80, batch_size=16, bucket=64)
    rationales = {
        "gold": c.Rationales(source="task", questions=(f"{task}.gold",)),
        "facts": c.Rationales(source="task", questions=(f"{task}.statements",)),
        "sampled": _say(task, teacher, dataclasses.replace(speak, n=30, temperature=0.7)),
        "greedy": _say(task, teacher, dataclasses.replace(speak, temperature=0.0, batch_size=256)),
    }
    corpora = {"gold": c.Corpus(rationales=f"{prefix}gold", keep="all")}
    students = {
        "teacher": c.Student(
            model=c.Model(architecture="opt-tiny", shape=TEACHER, tokenizer=f"task:{task}"),
            corpus=f"{prefix}gold",
            training=_train(800, 32, 1, 1e-2),
            dev=(f"{task}.dev",),
        )
    }
    for kind in kinds:
        corpora[f"facts_{kind}"] = c.Corpus(rationales=f"{prefix}facts", keep="all", target="text")
        students[f"base_{kind}"] = c.Student(
            model=c.Model(architecture=f"{kind}-tiny", shape=STUDENT[kind], tokenizer=f"task:{task}"),
            corpus=f"{prefix}facts_{kind}",
            training=_train(600, 32, 1, 1e-2),
        )
        for arm, (title, said, n) in ARMS.items():
            if kind != "opt" and arm not in ("label", "greedy", "n30"):
                continue
            corpora[f"{arm}_{kind}"] = c.Corpus(
                rationales=f"{prefix}{said}" if said else "",
                questions=(f"{task}.train",),
                target="rationale_answer" if said else "label",
                n=n,
            )
            students[f"{arm}_{kind}"] = c.Student(
                model=c.Model(student=f"{prefix}base_{kind}"),
                corpus=f"{prefix}{arm}_{kind}",
                training=_train(1000, 32, 1, RATES.get(arm, 1e-2)),
                dev=(f"{task}.dev",),
                sets=tuple(f"{task}.{split}" for split in SETS),
                arm=f"{title} ({kind.upper()})",
                export=arm == "n30",
            )
    return c.Config(
        name="world",
        seed=seed,
        tasks={task: c.Task(kind="world")},
        rationales={f"{prefix}{name}": value for name, value in rationales.items()},
        corpora={f"{prefix}{name}": value for name, value in corpora.items()},
        students={f"{prefix}{name}": value for name, value in students.items()},
        evaluation=c.Evaluation(
            sampling=dataclasses.replace(speak, temperature=0.0, batch_size=256), dev_questions=128
        ),
    )


def runlocal(config: c.Config) -> c.Config:
    """The same chain in about a minute: few updates, few questions, nothing learnt."""
    students = {
        # Even here the teacher must learn to end its answers, or the corpora of its students would be empty.
        name: dataclasses.replace(student, training=_train(160 if name == "teacher" else 20, 8, 1, 1e-2))
        for name, student in config.students.items()
    }
    small = {"train": 16, "dev": 8, "test": 8, "unseen": 8, "longer": 8, "gold": 64, "statements": 64}
    tasks = {name: dataclasses.replace(task, options=small) for name, task in config.tasks.items()}
    corpora = {
        name: dataclasses.replace(corpus, keep="all") if corpus.target == "rationale_answer" else corpus
        for name, corpus in config.corpora.items()
    }
    return dataclasses.replace(config, tasks=tasks, corpora=corpora, students=students)


def _say(task: str, teacher: str, sampling: c.Sampling) -> c.Rationales:
    return c.Rationales(questions=(f"{task}.train",), model=c.Model(student=teacher), sampling=sampling)


def _train(steps: int, batch_size: int, group_size: int, rate: float) -> c.Training:
    optimizer = c.Optimizer("muon", rate, "cosine", warmup_steps=steps // 20, weight_decay=0.1)
    return c.Training(steps, batch_size, group_size, optimizer=optimizer, log_every=50, eval_every=steps // 4)
