"""One student that is trained whole, and one that begins where it ended and learns by LoRA."""

import dataclasses

from scotd_jax import config as c

RANK = 3
SHAPE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 64}


def get_config():
    optimizer = c.Optimizer(learning_rate=1e-2, warmup_steps=2, moments="bfloat16")
    whole = c.Training(steps=4, batch_size=8, optimizer=optimizer)
    base = c.Student(
        model=c.Model(architecture="opt-tiny", overrides=SHAPE, tokenizer="task:world"), corpus="gold", training=whole
    )
    thin = dataclasses.replace(
        base,
        model=c.Model(student="base"),
        training=dataclasses.replace(whole, steps=6, lora=c.LoRA(rank=RANK, alpha=6.0)),
        eval_sets=("world.test",),
        export=True,
    )
    small = {"train": 8, "dev": 4, "test": 4, "unseen": 4, "longer": 4, "gold": 16, "statements": 4}
    config = c.Config(
        tasks={"world": c.Task(kind="world", options=small)},
        rationales={"gold": c.TaskSource(questions=("world.gold",))},
        corpora={"gold": c.Corpus(rationales=("gold",), decontaminate=0)},
        students={"base": base, "thin": thin},
        evaluation=c.Evaluation(sampling=c.Sampling(temperature=0.0, max_new_tokens=8, batch_size=4)),
    )
    return c.config_dict(config)
