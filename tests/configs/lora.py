"""A student with all parameters trainable, and a second one that starts from it and is trained with LoRA."""

import dataclasses

from scotd_jax import config as c

RANK = 3
OVERRIDES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 64}


def get_config():
    optimizer = c.Optimizer(learning_rate=1e-2, warmup_steps=2, moments="bfloat16")
    full = c.Training(steps=4, batch_size=8, optimizer=optimizer)
    base = c.Student(
        model=c.Model(architecture="opt-tiny", overrides=OVERRIDES, tokenizer="task:world"),
        corpus="gold",
        training=full,
    )
    lora = dataclasses.replace(
        base,
        model=c.Model(student="base"),
        training=dataclasses.replace(full, steps=6, lora=c.LoRA(rank=RANK, alpha=6.0)),
        eval_sets=("world.test",),
        export=True,
    )
    sizes = {"train": 8, "dev": 4, "test": 4, "unseen": 4, "longer": 4, "gold": 16, "statements": 4}
    config = c.Config(
        tasks={"world": c.Task(kind="world", options=sizes)},
        rationales={"gold": c.TaskSource(questions=("world.gold",))},
        corpora={"gold": c.Corpus(rationales=("gold",), decontaminate=0)},
        students={"base": base, "lora": lora},
        evaluation=c.Evaluation(sampling=c.Sampling(temperature=0.0, max_new_tokens=8, batch_size=4)),
    )
    return c.config_dict(config)
