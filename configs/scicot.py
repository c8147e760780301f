"""Sci-CoT (arXiv 2308.04679): one student says the rationale, another one reads it and answers.

    python -m scotd_jax.main --config=configs/scicot.py:task=arc_easy,student=flan-t5-small --workdir=gs://BUCKET/scicot

Settings: `task` arc_easy, arc_challenge or obqa; `student` flan-t5-small or flan-t5-base; the others are
those of configs/common.py.

The paper's abstract says that the two processes are separated in two stages, that the domain is scientific questions
and that 80 million parameters surpass BLOOM-176B on ARC-Easy. All else is our reading: both stages are models of one
size, the second one learns either from the teacher's rationales or from the first stage's own, said by models that did
not learn from their questions, and N rationales are voted over or their answers' probabilities summed. Learning rate,
batch and lengths are those of Multimodal-CoT (arXiv 2302.00923), the nearest design with public code.
"""

import dataclasses

from scotd_jax import config as c

FOLDS, N = 5, 10
ADAMW = c.Optimizer("adamw", 8e-5, "linear", warmup_steps=0)
TRAINING = c.Training(steps=10_000, batch_size=8, optimizer=ADAMW, eval_every=1_000)
STAGES = {"stage2": "two stages, the teacher's rationales", "stage2_own": "two stages, own rationales"}


def get_config(arg=None):
    common = c.sibling(__file__, "common")
    a = common.settings(arg, task="arc_easy", student="flan-t5-small")
    train, dev, reported = common.splits(a.task, a.runlocal)
    asked, dev = (train,), (dev,)
    folds = 2 if a.runlocal else FOLDS
    student = c.Student(model=common.model(a.student, a), training=TRAINING)
    teacher = common.teacher(a, asked, c.Sampling(n=30, temperature=1.0, batch_size=8))

    def says(name: str, questions: tuple[str, ...], n: int, temperature: float) -> c.ModelSource:
        sampling = c.Sampling(n=n, temperature=temperature)
        return c.ModelSource(questions=questions, model=c.Model(student=name), sampling=sampling)

    rationales = {"teacher": teacher, "own": says("stage1", (*dev, *reported), 1, 0.0)}
    rationales["own_n"] = says("stage1", reported, N, 0.7)
    corpora = {
        "label": c.Corpus("label", "t5", questions=asked),
        "one": c.Corpus("scotd", "t5", ("teacher",), asked),
        "stage1": c.Corpus("rationale", "t5", ("teacher",), asked),
        "stage2": c.Corpus("infer", "t5", ("teacher",), asked),
        "stage2_own": c.Corpus("infer", "t5", tuple(f"fold_{k}" for k in range(folds)), keep="all"),
    }
    students = {
        "label": dataclasses.replace(student, corpus="label", dev_sets=dev, eval_sets=reported, arm="label only"),
        "one": dataclasses.replace(student, corpus="one", dev_sets=dev, eval_sets=reported, arm="one stage"),
        "stage1": dataclasses.replace(student, corpus="stage1", export=True),
    }
    for fold in range(folds):
        others = (f"{train}@!{fold}/{folds}",)
        corpora[f"stage1_{fold}"] = c.Corpus("rationale", "t5", ("teacher",), others)
        students[f"stage1_{fold}"] = dataclasses.replace(student, corpus=f"stage1_{fold}")
        held_out = (f"{train}@{fold}/{folds}",)
        rationales[f"fold_{fold}"] = says(f"stage1_{fold}", held_out, N, 1.0)
    evals = {}
    for name, arm in STAGES.items():
        students[name] = dataclasses.replace(
            student, corpus=name, dev_sets=dev, eval_sets=reported, rationales_from=("own",), arm=arm, export=True
        )
        several = {"student": name, "eval_sets": reported, "rationales_from": ("own_n",), "n": N}
        evals[f"{name}_vote"] = c.EvalSpec(arm=f"{arm}: vote over {N}", **several)
        evals[f"{name}_sum"] = c.EvalSpec(arm=f"{arm}: summed over {N}", combine="marginal", **several)
        for control in ("empty", "shuffled"):
            evals[f"{name}_{control}"] = c.EvalSpec(name, reported, f"{arm}: {control}", rationale_control=control)
    config = c.Config(
        name=f"Sci-CoT: {a.task}, {a.student}",
        tasks={a.task: common.task(a.task, common.folder(a))},
        rationales=rationales,
        corpora=corpora,
        students=students,
        evals=evals,
        evaluation=c.Evaluation(sampling=c.Sampling(temperature=0.0)),
    )
    return common.finish(config, a)
