"""SCoTD (arXiv 2306.14050): thirty chains of thought per question, filtered by the gold answer, against its baselines.

    scotd-jax --config=scotd:task=obqa,student=opt-1.3b --workdir=gs://BUCKET/scotd_obqa

Settings: `task` csqa, obqa or quarel; `student` opt-125m, opt-350m, opt-1.3b, or a T5 (t5-small, t5-v1.1-base, ...);
`controls` adds students with shuffled rationales, with rationales of other questions, and with the answer before the
rationale. The settings for questions, weights and responses are in configs/common.py.

Hyperparameters are those of the paper and its code: 20,000 updates of 32 questions with one rationale each, Adam
(epsilon 1e-5) at 2e-5 after 500 updates of warm-up, linear decay to zero, gradients clipped at norm 0.5, prompts of up
to 700 tokens and responses of up to 256; N = 30 at temperature 1; greedy evaluation, and a vote over 30 samples at
temperature 0.7. In contrast to the paper, the best checkpoint is chosen on questions that are not reported, and all
students make the same number of updates.
"""

from scotd_jax import config as c

ADAM = c.Optimizer("adamw", 2e-5, "linear", warmup_steps=500, eps=1e-5, clip_norm=0.5)
TRAINING = c.Training(steps=20_000, batch_size=32, group_size=1, optimizer=ADAM, eval_every=2_000)
N = 30

# name: (row of the report, recipe, set of responses, first n of them, Corpus.keep, Corpus.rationale_control)
ARMS = {
    "label": ("label only", "label", "", 0, "correct", "own"),
    "greedy": ("one greedy chain", "scotd", "greedy", 1, "correct", "own"),
    "n1": ("SCoTD, N = 1", "scotd", "sampled", 1, "correct", "own"),
    "n5": ("SCoTD, N = 5", "scotd", "sampled", 5, "correct", "own"),
    "n30": (f"SCoTD, N = {N}", "scotd", "sampled", N, "correct", "own"),
    # The few-shot setting of the paper has no gold answers to train on, so responses are not filtered.
    "label_few": ("few-shot: the teacher's labels", "teacher_label", "greedy", 1, "all", "own"),
    "greedy_few": ("few-shot: one greedy chain", "scotd", "greedy", 1, "all", "own"),
    "n30_few": (f"few-shot: SCoTD, N = {N}", "scotd", "sampled", N, "all", "own"),
}
CONTROLS = {
    "answer_first": ("answer first", "answer_first", "sampled", N, "correct", "own"),
    "shuffled": ("words shuffled", "scotd", "sampled", N, "correct", "shuffled"),
    "other": ("another question's rationale", "scotd", "sampled", N, "correct", "other"),
}


def get_config(arg=None):
    common = c.sibling(__file__, "common")
    settings = common.parse_settings(arg, task="csqa", student="opt-1.3b", controls=False)
    train, dev, reported = common.splits(settings.task, settings.runlocal)
    questions = (train,)
    rationales = {"sampled": common.teacher(settings, questions, c.Sampling(n=N, temperature=1.0, batch_size=8))}
    if not settings.responses:  # imported files contain only sampled responses
        rationales["greedy"] = common.teacher(settings, questions, c.Sampling(temperature=0.0))
    arms = ARMS | (CONTROLS if settings.controls else {})
    arms = {name: arm for name, arm in arms.items() if not arm[2] or arm[2] in rationales}
    corpora = {
        name: c.Corpus(
            recipe=recipe,
            format=common.prompt_format(settings),
            rationales=(source,) if source else (),
            questions=questions,
            n=n,
            keep=keep,
            rationale_control=control,
        )
        for name, (_, recipe, source, n, keep, control) in arms.items()
    }
    students = {
        name: c.Student(
            model=common.model(settings.student, settings),
            corpus=name,
            training=TRAINING,
            dev_sets=(dev,),
            eval_sets=reported,
            arm=arm[0],
            export=name == "n30",
        )
        for name, arm in arms.items()
    }
    config = c.Config(
        name=f"SCoTD: {settings.task}, {settings.student}",
        tasks={settings.task: common.task(settings.task, common.data_folder(settings))},
        rationales=rationales,
        corpora=corpora,
        students=students,
        evaluation=c.Evaluation(
            sampling=c.Sampling(temperature=0.0), self_consistency=c.Sampling(n=30, temperature=0.7, batch_size=8)
        ),
    )
    return common.finish(common.with_references(config, settings, "n30"), settings)
