"""The world's chain at a small size, from the teacher's training to the report, for tests that kill it."""

import dataclasses

from scotd_jax import config as c
from tests.configs.small_chain import MODEL

STEPS = 32  # updates of each of the two trainings
SAMPLING = c.Sampling(n=3, max_new_tokens=12, batch_size=2, bucket=64)


def get_config():
    training = c.Training(
        steps=STEPS,
        batch_size=4,
        group_size=1,
        optimizer=c.Optimizer(learning_rate=1e-2, warmup_steps=2),
        eval_every=STEPS // 2,
        save_every=4,
        log_every=3,
    )
    teacher = c.Student(model=MODEL, corpus="gold", training=training)
    return c.config_dict(
        c.Config(
            name="killed chain",
            tasks={
                "world": c.Task(
                    options={
                        "train": 24,
                        "dev": 4,
                        "test": 8,
                        "unseen": 4,
                        "longer": 4,
                        "gold": 24,
                        "statements": 8,
                    }
                )
            },
            rationales={
                "gold": c.TaskSource(questions=("world.gold",)),
                "sampled": c.ModelSource(
                    questions=("world.train",), model=c.Model(student="teacher"), sampling=SAMPLING
                ),
            },
            corpora={
                "gold": c.Corpus(rationales=("gold",), decontaminate=0),
                # With the gold rationales, because a teacher of 32 updates rarely completes one.
                "both": c.Corpus(rationales=("gold", "sampled"), keep="all", decontaminate=0),
            },
            students={
                "teacher": teacher,
                "student": dataclasses.replace(
                    teacher, corpus="both", dev_sets=("world.dev",), eval_sets=("world.test",), arm="N = 3", export=True
                ),
            },
            evaluation=c.Evaluation(sampling=dataclasses.replace(SAMPLING, n=1, temperature=0.0), dev_questions=4),
        )
    )
