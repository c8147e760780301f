"""SCoTD on IMDb and its contrast set (arXiv 2306.14050, section 3.4): does a student with reasons follow fewer cues?

    python -m scotd_jax.main --config=configs/imdb.py:data=data --workdir=runs/imdb

`data/imdb` is the large movie review data set (a folder `train` with `pos` and `neg`), `data/imdb_contrast` the folder
IMDb/data of github.com/allenai/contrast-sets. The report shows how many pairs a student gets right on both sides.
The paper's reviews are cut at 700 tokens; here a longer one is left out, and the ledger counts it.
"""

from scotd_jax import config as c


def get_config(arg=None):
    common, scotd = c.sibling(__file__, "common"), c.sibling(__file__, "scotd")
    a = common.settings(arg, student="opt-1.3b")
    train, dev, _ = common.splits("imdb", a.runlocal)
    asked = (train,)
    sampling = c.Sampling(n=scotd.N, temperature=1.0, batch_size=4)
    corpora = {
        "label": c.Corpus("label", common.style(a.student), questions=asked),
        "n30": c.Corpus("scotd", common.style(a.student), ("sampled",), asked),
    }
    students = {
        name: c.Student(
            model=common.model(a.student, a),
            corpus=name,
            training=scotd.TRAINING,
            dev_sets=(dev,),
            eval_sets=common.sets_of(("imdb_contrast",), "test", "contrast"),
            arm=arm,
            export=name == "n30",
        )
        for name, arm in (("label", "label only"), ("n30", f"SCoTD, N = {scotd.N}"))
    }
    config = c.Config(
        name=f"SCoTD: IMDb and its contrast set, {a.student}",
        tasks={name: common.task(name, common.folder(a)) for name in ("imdb", "imdb_contrast")},
        rationales={"sampled": common.teacher(a, asked, sampling, few_shot=3)},
        corpora=corpora,
        students=students,
        evaluation=c.Evaluation(sampling=c.Sampling(temperature=0.0)),
    )
    return common.finish(config, a)
