"""A small chain for tests that interrupt or damage it: samples of an untrained teacher, and a student."""

from scotd_jax import config as c

OVERRIDES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "ffn_dim": 64,
    "max_position_embeddings": 128,
}
MODEL = c.Model(architecture="opt-tiny", overrides=OVERRIDES, tokenizer="task:world")


def get_config():
    options = {"train": 24, "dev": 4, "test": 4, "unseen": 4, "longer": 4, "gold": 24, "statements": 8}
    optimizer = c.Optimizer(learning_rate=1e-2, warmup_steps=2)
    return c.config_dict(
        c.Config(
            name="small chain",
            tasks={"world": c.Task(options=options)},
            rationales={
                "teacher": c.ModelSource(
                    questions=("world.train",),
                    model=MODEL,
                    sampling=c.Sampling(n=5, max_new_tokens=12, batch_size=2, bucket=64),
                ),
                "gold": c.TaskSource(questions=("world.gold",)),
            },
            corpora={"gold": c.Corpus(rationales=("gold",))},
            students={
                "student": c.Student(
                    model=MODEL,
                    corpus="gold",
                    training=c.Training(
                        steps=40, batch_size=4, group_size=1, optimizer=optimizer, save_every=4, log_every=1
                    ),
                )
            },
        )
    )
