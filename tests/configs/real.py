"""The whole chain on real questions, to run by hand if ../shared/data exists (some minutes each):

    python -m scotd_jax.main --config=tests/configs/real.py:opt-125m --workdir=runs/real_opt
    python -m scotd_jax.main --config=tests/configs/real.py:t5-small --workdir=runs/real_t5
    python -m scotd_jax.main --config=tests/configs/real.py:scicot --workdir=runs/real_scicot

All use OpenBookQA with the rationales of three teachers, 22 per question. The first two train an OPT-125M or T5-small
with random weights for 50 updates, and evaluate on 100 questions of every reported set, of IMDb's contrast pairs, and
of SST-2 as an unseen task. The third trains the two stages and all arms of Sci-CoT, with the architecture of
Flan-T5-small, on the first 60 questions.
"""

import dataclasses
from pathlib import Path

from scotd_jax import config as c

DATA = "../shared/data"
HERE = str(Path("configs/x").absolute())  # config.sibling loads files beside this path, which need not exist
RESPONSES = f"responses={DATA}/rationales/openbookqa_multi/*_ranked.json.gz,importer=openbookqa_multi,data={DATA}"


def get_config(what):
    """Returns the config; `what` is "scicot" or the name of a student for SCoTD."""
    return c.config_dict(scicot() if what == "scicot" else scotd(what))


def load(name: str, student: str) -> c.Config:
    tokenizer = f"{DATA}/tokenizers/{'opt' if 'opt' in student else 't5'}"
    settings = f"task=obqa,student={student},weights=random,tokenizer={tokenizer},{RESPONSES}"
    return c.from_mapping(c.Config, c.sibling(HERE, name).get_config(settings))


def brief(training: c.Training, steps: int, batch_size: int) -> c.Training:
    optimizer = dataclasses.replace(training.optimizer, learning_rate=1e-3, warmup_steps=steps // 5)
    return dataclasses.replace(
        training, steps=steps, batch_size=batch_size, group_size=2, optimizer=optimizer, log_every=10, eval_every=0
    )


def scotd(student: str) -> c.Config:
    config, common = load("scotd", student), c.sibling(HERE, "common")
    student = dataclasses.replace(config.students["n30"], training=brief(config.students["n30"].training, 50, 8))
    unseen = (*common.question_sets(("imdb_contrast",), "test", "contrast"), "sst2.dev")
    sampling = c.Sampling(temperature=0.0, max_new_tokens=64, batch_size=50, bucket=64)
    return dataclasses.replace(
        config,
        tasks=config.tasks | {name: common.task(name, DATA) for name in ("imdb_contrast", "sst2")},
        corpora={"n30": config.corpora["n30"]},
        students={"n30": student},
        evals={"unseen": c.EvalSpec("n30", unseen, arm="on unseen tasks")},
        evaluation=c.Evaluation(sampling=sampling, dev_questions=20, limit=100),
    )


def scicot() -> c.Config:
    config = load("scicot", "flan-t5-small")
    short = {"max_new_tokens": 48, "batch_size": 30, "bucket": 64}
    rationales = {
        name: dataclasses.replace(source, options={"subset": True})
        if isinstance(source, c.FileSource)
        else dataclasses.replace(
            source, sampling=dataclasses.replace(source.sampling, n=min(source.sampling.n, 2), **short)
        )
        for name, source in config.rationales.items()
    }
    return dataclasses.replace(
        config,
        tasks={name: dataclasses.replace(task, limit=60) for name, task in config.tasks.items()},
        rationales=rationales,
        students={n: dataclasses.replace(s, training=brief(s.training, 10, 4)) for n, s in config.students.items()},
        evals={n: dataclasses.replace(spec, n=min(spec.n, 2)) for n, spec in config.evals.items()},
        evaluation=c.Evaluation(sampling=c.Sampling(temperature=0.0, **short), dev_questions=10),
    )
