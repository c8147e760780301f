"""The whole way on real questions, for a run by hand where ../shared/data is there (it takes some minutes):

    python -m scotd_jax.main --config=tests/configs/real.py:opt-125m --workdir=runs/real_opt

OpenBookQA with the rationales of three teachers, 22 a question; a student of OPT-125M's or T5-small's shape from random
weights and 50 updates; 100 questions of every reported set; IMDb's contrast pairs and, as an unseen task, SST-2.
"""

import dataclasses
from pathlib import Path

from scotd_jax import config as c

DATA = "../shared/data"


def get_config(student):
    common = c.sibling(str(Path("configs/x").absolute()), "common")
    scotd = c.sibling(str(Path("configs/x").absolute()), "scotd")
    said = f"said={DATA}/rationales/openbookqa_multi/*_ranked.json.gz,importer=openbookqa_multi"
    weights = f"weights=random,tokenizer={DATA}/tokenizers/{'opt' if 'opt' in student else 't5'}"
    config = c.from_mapping(c.Config, scotd.get_config(f"task=obqa,student={student},data={DATA},{said},{weights}"))
    optimizer = dataclasses.replace(scotd.ADAM, learning_rate=1e-3, warmup_steps=10)
    training = c.Training(steps=50, batch_size=8, group_size=2, optimizer=optimizer, log_every=10)
    taught = dataclasses.replace(config.students["n30"], training=training)
    others = ("imdb_contrast", "sst2")
    unseen = (*common.sets_of(("imdb_contrast",), "test", "contrast"), "sst2.dev")
    sampling = c.Sampling(temperature=0.0, max_new_tokens=64, batch_size=50, bucket=64)
    return c.config_dict(
        dataclasses.replace(
            config,
            tasks=config.tasks | {name: common.task(name, DATA) for name in others},
            corpora={"n30": config.corpora["n30"]},
            students={"n30": taught},
            askings={"unseen": c.Asking("n30", unseen, arm="on tasks it has not seen")},
            evaluation=c.Evaluation(sampling=sampling, dev_questions=20, limit=100),
        )
    )
