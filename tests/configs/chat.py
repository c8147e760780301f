"""A random chat model generates responses to a few questions; a student has a corpus of gold responses.

Usage: --config=tests/configs/chat.py:FOLDER, with a folder from tests/helpers/chat_model.py
"""

from scotd_jax import config as c


def get_config(folder):
    model = c.Model(path=f"{folder}/model", chat=True)
    exemplars = f"{folder}/exemplars.jsonl"
    brief = c.Sampling(n=2, max_new_tokens=12, batch_size=4, bucket=256)
    greedy = c.Sampling(temperature=0.0, max_new_tokens=12, batch_size=4, bucket=256)
    return c.config_dict(
        c.Config(
            tasks={"home": c.Task(kind="jsonl", path=f"{folder}/task", exemplars=exemplars)},
            rationales={
                "sampled": c.ModelSource(questions=("home.train",), model=model, few_shot=2, sampling=brief),
                "gold": c.TaskSource(questions=("home.exemplars",)),
            },
            corpora={"gold": c.Corpus(rationales=("gold",), few_shot=1)},
            students={
                "student": c.Student(
                    model=model,
                    corpus="gold",
                    training=c.Training(steps=2, batch_size=2, optimizer=c.Optimizer(warmup_steps=1)),
                    eval_sets=("home.test",),
                    export=True,
                    precision="float32",
                )
            },
            evaluation=c.Evaluation(sampling=greedy),
        )
    )
