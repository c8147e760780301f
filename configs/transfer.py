"""SCoTD on an unseen task (arXiv 2306.14050, section 3.5): from ANLI, CommonsenseQA and OpenBookQA to SST-2.

    scotd-jax --config=transfer --workdir=gs://BUCKET/transfer

As in MetaICL, students are trained and evaluated with few-shot examples before every question, so that a prompt can
demonstrate a new task: SST-2's validation sentences follow few-shot examples of SST-2. Two choices are ours, because
the paper does not report them: the number of examples, and equal shares of the three tasks in training, whose sizes
differ.
"""

from scotd_jax import config as c

TRAINED, UNSEEN = ("anli", "csqa", "obqa"), "sst2"
FEW_SHOT = 2


def get_config(arg=None):
    common, scotd = c.sibling(__file__, "common"), c.sibling(__file__, "scotd")
    settings = common.parse_settings(arg, student="opt-1.3b")
    splits = [common.splits(task, settings.runlocal) for task in TRAINED]
    questions, dev_sets = tuple(train for train, _, _ in splits), tuple(dev for _, dev, _ in splits)
    sampling = c.Sampling(n=scotd.N, temperature=1.0, batch_size=8)
    prompt_format = common.prompt_format(settings)
    shared = {"few_shot": FEW_SHOT, "max_prompt_tokens": 1024, "mixture": dict.fromkeys(TRAINED, 1.0)}
    corpora = {
        "label": c.Corpus("label", prompt_format, questions=questions, **shared),
        "n30": c.Corpus("scotd", prompt_format, ("sampled",), questions, **shared),
    }
    students = {
        name: c.Student(
            model=common.model(settings.student, settings),
            corpus=name,
            training=scotd.TRAINING,
            dev_sets=dev_sets,
            eval_sets=common.splits(UNSEEN, settings.runlocal)[2],
            arm=arm,
            export=name == "n30",
        )
        for name, arm in (("label", "label only"), ("n30", f"SCoTD, N = {scotd.N}"))
    }
    config = c.Config(
        name=f"SCoTD: {', '.join(TRAINED)} to {UNSEEN}, {settings.student}",
        tasks={name: common.task(name, common.data_folder(settings)) for name in (*TRAINED, UNSEEN)},
        rationales={"sampled": common.teacher(settings, questions, sampling)},
        corpora=corpora,
        students=students,
        evaluation=c.Evaluation(sampling=c.Sampling(temperature=0.0)),
    )
    return common.finish(common.with_references(config, settings, "n30"), settings)
