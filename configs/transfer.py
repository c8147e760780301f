"""SCoTD on a task nobody trained on (arXiv 2306.14050, section 3.5): ANLI, CommonsenseQA and OpenBookQA to SST-2.

    python -m scotd_jax.main --config=configs/transfer.py --workdir=gs://BUCKET/transfer

As in MetaICL, students see worked examples of the task before every question, in training and when they are asked, so
that a new task can be shown to them: SST-2's validation sentences come after exemplars of SST-2. The number of
exemplars is ours; the paper does not say it.
"""

from scotd_jax import config as c

TRAINED, UNSEEN = ("anli", "csqa", "obqa"), "sst2"
SHOTS = 2


def get_config(arg=None):
    common, scotd = c.sibling(__file__, "common"), c.sibling(__file__, "scotd")
    a = common.settings(arg, student="opt-1.3b")
    splits = [common.splits(task, a.runlocal) for task in TRAINED]
    asked, dev = tuple(train for train, _, _ in splits), tuple(dev for _, dev, _ in splits)
    sampling = c.Sampling(n=scotd.N, temperature=1.0, batch_size=8)
    style = common.style(a.student)
    corpora = {
        "label": c.Corpus("label", style, questions=asked, few_shot=SHOTS, max_prompt_tokens=1024),
        "n30": c.Corpus("scotd", style, ("sampled",), asked, few_shot=SHOTS, max_prompt_tokens=1024),
    }
    students = {
        name: c.Student(
            model=common.model(a.student, a),
            corpus=name,
            training=scotd.TRAINING,
            dev_sets=dev,
            eval_sets=common.splits(UNSEEN, a.runlocal)[2],
            arm=arm,
            export=name == "n30",
        )
        for name, arm in (("label", "label only"), ("n30", f"SCoTD, N = {scotd.N}"))
    }
    config = c.Config(
        name=f"SCoTD: {', '.join(TRAINED)} to {UNSEEN}, {a.student}",
        tasks={name: common.task(name, common.folder(a)) for name in (*TRAINED, UNSEEN)},
        rationales={"sampled": common.teacher(a, asked, sampling)},
        corpora=corpora,
        students=students,
        evaluation=c.Evaluation(sampling=c.Sampling(temperature=0.0)),
    )
    return common.finish(config, a)
