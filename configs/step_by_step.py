"""Distilling step-by-step (arXiv 2305.02301): one T5 trained on two prefixed tasks, evaluated only on the label.

    scotd-jax --config=step_by_step:responses=PATH/train_CoT_*.json.gz --workdir=gs://BUCKET/dss

Trains on CommonsenseQA with one unfiltered rationale per question, either by PaLM-540B from the paper's code
(`responses`, importer `commonsenseqa_palm540b`) or by your own teacher (`teacher`). The baselines are those of the
paper: standard fine-tuning, and rationale and label as one text. Settings: `task`, `student`, `alpha` (the weight of
the label's loss), and those of configs/common.py.

Hyperparameters are those of the code: T5 v1.1 base, AdamW at 5e-5 with linear decay, 10,000 updates of 64 questions,
the text of the choice as the label, alpha 0.5. The code generates up to 64 tokens; here the limit is 128, so that a
rationale and its label fit.
"""

import dataclasses

from scotd_jax import config as c
from scotd_jax.tasks.recipes import RECIPES

ADAMW = c.Optimizer("adamw", 5e-5, "linear", warmup_steps=0)
TRAINING = c.Training(steps=10_000, batch_size=64, optimizer=ADAMW, eval_every=250)
# Recipes of the baselines: the text of the label, and rationale and label in one text.
BASELINES = {
    "choice": c.Recipe(
        {"train": c.Part("predict: {question}", "{choice}")}, prompt="predict: {question}", parse_as="choice"
    ),
    "single": c.Recipe({"train": c.Part("predict: {question}")}, prompt="predict: {question}"),
}
ARMS = {"choice": "standard fine-tuning", "single": "rationale and label in one", "step_by_step": "step by step"}


def get_config(arg=None):
    common = c.sibling(__file__, "common")
    own = {"task": "csqa", "student": "t5-v1.1-base", "alpha": 0.5, "importer": "commonsenseqa_palm540b"}
    settings = common.parse_settings(arg, **own)
    train, dev, reported = common.splits(settings.task, settings.runlocal)
    questions = (train,)
    weights = {"predict": settings.alpha, "explain": 1 - settings.alpha}
    parts = {name: dataclasses.replace(p, weight=weights[name]) for name, p in RECIPES["step_by_step"].parts.items()}
    recipes = BASELINES | {"step_by_step": dataclasses.replace(RECIPES["step_by_step"], parts=parts)}
    config = c.Config(
        name=f"Distilling step-by-step: {settings.task}, {settings.student}",
        tasks={settings.task: common.task(settings.task, common.data_folder(settings))},
        rationales={"teacher": common.teacher(settings, questions, c.Sampling(temperature=0.0))},
        recipes=recipes,
        corpora={
            name: c.Corpus(
                name, common.prompt_format(settings), ("teacher",), questions, keep="all", max_prompt_tokens=1024
            )
            for name in ARMS
        },
        students={
            name: c.Student(
                model=common.model(settings.student, settings),
                corpus=name,
                training=TRAINING,
                dev_sets=(dev,),
                eval_sets=reported,
                arm=arm,
                export=name == "step_by_step",
            )
            for name, arm in ARMS.items()
        },
        evaluation=c.Evaluation(sampling=c.Sampling(temperature=0.0, max_new_tokens=128)),
    )
    return common.finish(common.with_references(config, settings, "single"), settings)
