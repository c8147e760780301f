"""Distilling step-by-step (arXiv 2305.02301): one T5, two tasks told apart by a prefix, only the label at test time.

    python -m scotd_jax.main --config=configs/step_by_step.py:said=PATH/train_CoT_*.json.gz --workdir=gs://BUCKET/dss

On CommonsenseQA with the rationales of PaLM-540B that came with the paper's code (`said`, importer
`commonsenseqa_palm540b`), one per question and not filtered; or with a teacher of your own (`teacher`). Beside it
standard fine-tuning and rationale and label as one text, as in the paper. Settings are those of
configs/common.py, `task`, `student` and `alpha`, the weight of the label's loss.

Hyper-parameters are those of the code: T5 v1.1 base, AdamW at 5e-5 falling linearly, 10,000 updates of 64 questions,
the label being the choice's text, alpha 0.5. The code lets a student say 64 tokens; here it is 128, so that a
rationale and its label fit.
"""

import dataclasses

from scotd_jax import config as c
from scotd_jax.tasks.recipes import RECIPES

ADAMW = c.Optimizer("adamw", 5e-5, "linear", warmup_steps=0)
TRAINING = c.Training(steps=10_000, batch_size=64, optimizer=ADAMW, eval_every=250)
# Two recipes of our own: the label's text under the same prompt, and the rationale before it.
OWN = {
    "choice": c.Recipe(
        {"train": c.Part("predict: {question}", "{choice}")}, prompt="predict: {question}", parse_as="choice"
    ),
    "single": c.Recipe({"train": c.Part("predict: {question}")}, prompt="predict: {question}"),
}
ARMS = {"choice": "standard fine-tuning", "single": "rationale and label in one", "step_by_step": "step by step"}


def get_config(arg=None):
    common = c.sibling(__file__, "common")
    own = {"task": "csqa", "student": "t5-v1.1-base", "alpha": 0.5, "importer": "commonsenseqa_palm540b"}
    a = common.settings(arg, **own)
    train, dev, reported = common.splits(a.task, a.runlocal)
    asked = (train,)
    weights = {"predict": a.alpha, "explain": 1 - a.alpha}
    parts = {name: dataclasses.replace(p, weight=weights[name]) for name, p in RECIPES["step_by_step"].parts.items()}
    recipes = OWN | {"step_by_step": dataclasses.replace(RECIPES["step_by_step"], parts=parts)}
    config = c.Config(
        name=f"Distilling step-by-step: {a.task}, {a.student}",
        tasks={a.task: common.task(a.task, common.folder(a))},
        rationales={"said": common.teacher(a, asked, c.Sampling(temperature=0.0))},
        recipes=recipes,
        corpora={name: c.Corpus(name, "t5", ("said",), asked, keep="all", max_prompt_tokens=1024) for name in ARMS},
        students={
            name: c.Student(
                model=common.model(a.student, a),
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
    return common.finish(config, a)
