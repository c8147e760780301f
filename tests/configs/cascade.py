"""A custom recipe on a custom task: CasCoD (arXiv 2405.19842) on riddles.

One model is trained on two parts: the first maps a question to a rationale, the second maps both to an answer. The
model is prompted twice: first for its rationale (`own`), then for the answer.
"""

from scotd_jax import config as c

TRAINING = c.Training(steps=8, batch_size=4, optimizer=c.Optimizer(learning_rate=1e-2, warmup_steps=2))
ALPHA = 0.1  # weight of the answer's loss
CASCADE = c.Recipe(
    parts={
        "explain": c.Part("{prompt}", "{rationale}", weight=1 - ALPHA),
        "conclude": c.Part("{prompt}{rationale}{marker}", "{answer}", weight=ALPHA),
    },
    prompt="{prompt}{rationale}{marker}",
)


def get_config():
    model = c.Model(architecture="t5-tiny", overrides={"d_model": 32}, tokenizer="task:riddles")
    brief = c.Sampling(temperature=0.0, max_new_tokens=24)
    return c.config_dict(
        c.Config(
            tasks={
                "riddles": c.Task(
                    kind="tests/configs/riddles.py",
                    path="tests/configs/data/riddles",
                    format="t5",
                    exemplars="tests/configs/data/riddles/exemplars.jsonl",
                )
            },
            recipes={"cascade": CASCADE},
            rationales={
                "gold": c.TaskSource(questions=("riddles.exemplars",)),
                "own": c.ModelSource(
                    questions=("riddles.test",),
                    model=c.Model(student="cascade"),
                    recipe="rationale",
                    sampling=brief,
                ),
            },
            corpora={"cascade": c.Corpus("cascade", rationales=("gold",))},
            students={
                "cascade": c.Student(model, "cascade", TRAINING, eval_sets=("riddles.test",), rationales_from=("own",))
            },
            evaluation=c.Evaluation(sampling=brief),
        )
    )
