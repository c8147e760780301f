"""Sci-CoT (arXiv 2308.04679): one student generates the rationale, another one the answer after it.

    scotd-jax --config=scicot:task=arc_easy,student=flan-t5-small --workdir=gs://BUCKET/scicot

Settings: `task` arc_easy, arc_challenge or obqa; `student` flan-t5-small or flan-t5-base; and those of
configs/common.py.

The paper's abstract states that reasoning and answering are separate stages, that the domain is scientific questions,
and that 80 million parameters surpass BLOOM-176B on ARC-Easy. Everything else is our interpretation: both stages have
the same size; the second is trained either on the teacher's rationales or on the first stage's own, which are
cross-fitted (sampled from models that were not trained on their questions); and the answers from N rationales are
combined by a vote or by summing their probabilities. Learning rate, batch size and lengths are those of Multimodal-CoT
(arXiv 2302.00923), the nearest design with public code.
"""

import dataclasses

from scotd_jax import config as c

FOLDS, N = 5, 10
ADAMW = c.Optimizer("adamw", 8e-5, "linear", warmup_steps=0)
TRAINING = c.Training(steps=10_000, batch_size=8, optimizer=ADAMW, eval_every=1_000)
COMBINED = (f": vote over {N}", f": summed over {N}")  # ends of the names of arms with several rationales
CONTROLS = ("empty", "shuffled")
STAGES = {"stage2": "two stages, the teacher's rationales", "stage2_own": "two stages, own rationales"}


def get_config(arg=None):
    common = c.sibling(__file__, "common")
    settings = common.parse_settings(arg, task="arc_easy", student="flan-t5-small")
    train, dev, reported = common.splits(settings.task, settings.runlocal)
    questions, dev_sets = (train,), (dev,)
    folds = 2 if settings.runlocal else FOLDS
    student = c.Student(model=common.model(settings.student, settings), training=TRAINING)
    teacher = common.teacher(settings, questions, c.Sampling(n=30, temperature=1.0, batch_size=8))

    def responses_of(student: str, questions: tuple[str, ...], n: int, temperature: float) -> c.ModelSource:
        sampling = c.Sampling(n=n, temperature=temperature)
        return c.ModelSource(questions=questions, model=c.Model(student=student), sampling=sampling)

    rationales = {"teacher": teacher, "own": responses_of("stage1", (*dev_sets, *reported), 1, 0.0)}
    rationales["own_n"] = responses_of("stage1", reported, N, 0.7)
    prompt_format = common.prompt_format(settings)
    corpora = {
        "label": c.Corpus("label", prompt_format, questions=questions),
        "one": c.Corpus("scotd", prompt_format, ("teacher",), questions),
        "stage1": c.Corpus("rationale", prompt_format, ("teacher",), questions),
        "stage2": c.Corpus("infer", prompt_format, ("teacher",), questions),
        "stage2_own": c.Corpus("infer", prompt_format, tuple(f"fold_{k}" for k in range(folds)), keep="all"),
    }
    students = {
        "label": dataclasses.replace(student, corpus="label", dev_sets=dev_sets, eval_sets=reported, arm="label only"),
        "one": dataclasses.replace(student, corpus="one", dev_sets=dev_sets, eval_sets=reported, arm="one stage"),
        "stage1": dataclasses.replace(student, corpus="stage1", export=True),
    }
    for fold in range(folds):
        others = (f"{train}@!{fold}/{folds}",)
        corpora[f"stage1_{fold}"] = c.Corpus("rationale", prompt_format, ("teacher",), others)
        students[f"stage1_{fold}"] = dataclasses.replace(student, corpus=f"stage1_{fold}")
        held_out = (f"{train}@{fold}/{folds}",)
        rationales[f"fold_{fold}"] = responses_of(f"stage1_{fold}", held_out, N, 1.0)
    evals = {}
    for name, arm in STAGES.items():
        students[name] = dataclasses.replace(
            student, corpus=name, dev_sets=dev_sets, eval_sets=reported, rationales_from=("own",), arm=arm, export=True
        )
        with_many = {"student": name, "eval_sets": reported, "rationales_from": ("own_n",), "n": N}
        vote, marginal = (f"{arm}{combined}" for combined in COMBINED)
        evals[f"{name}_vote"] = c.EvalSpec(arm=vote, **with_many)
        evals[f"{name}_sum"] = c.EvalSpec(arm=marginal, combine="marginal", **with_many)
        for control in CONTROLS:
            evals[f"{name}_{control}"] = c.EvalSpec(name, reported, f"{arm}: {control}", rationale_control=control)
    answers = [f"{arm}{combined}" for arm in STAGES.values() for combined in ("", *COMBINED)]
    comparisons = (
        *(f"{answer} vs {other}" for other in ("one stage", "label only") for answer in answers),
        "one stage vs label only",
        *(f"{arm} vs {arm}: {control}" for arm in STAGES.values() for control in CONTROLS),
    )
    config = c.Config(
        name=f"Sci-CoT: {settings.task}, {settings.student}",
        tasks={settings.task: common.task(settings.task, common.data_folder(settings))},
        rationales=rationales,
        corpora=corpora,
        students=students,
        evals=evals,
        evaluation=c.Evaluation(sampling=c.Sampling(temperature=0.0), comparisons=comparisons),
    )
    return common.finish(common.with_references(config, settings, "one"), settings)
