"""SCoTD on IMDb and its contrast set (arXiv 2306.14050, section 3.4): do rationales make students more robust?

    scotd-jax --config=imdb:data=data --workdir=runs/imdb

`data/imdb` is the large movie review data set (a folder `train` with `pos` and `neg`), `data/imdb_contrast` the folder
IMDb/data of github.com/allenai/contrast-sets. The report shows the share of pairs for which both answers of a student
are correct. As in the paper, reviews are truncated: with the words around them, prompts have at most 700 tokens of the
student. Truncated questions have the tag "truncated" in the results.
"""

import dataclasses

from scotd_jax import config as c

QUESTION_TOKENS = 690  # leaves 10 of 700 tokens for the words of the prompt format
RESPONSES = 100_000  # the paper sub-samples to this number of examples


def get_config(arg=None):
    common, scotd = c.sibling(__file__, "common"), c.sibling(__file__, "scotd")
    settings = common.parse_settings(arg, student="opt-1.3b")
    train, dev, _ = common.splits("imdb", settings.runlocal)
    questions = (train,)
    truncation = {"max_tokens": QUESTION_TOKENS, "tokenizer": common.model(settings.student, settings).path}
    sampling = c.Sampling(n=scotd.N, temperature=1.0, batch_size=4)
    corpora = {
        "label": c.Corpus("label", common.prompt_format(settings), questions=questions),
        "n30": c.Corpus("scotd", common.prompt_format(settings), ("sampled",), questions, max_responses=RESPONSES),
    }
    students = {
        name: c.Student(
            model=common.model(settings.student, settings),
            corpus=name,
            training=scotd.TRAINING,
            dev_sets=(dev,),
            eval_sets=common.question_sets(("imdb_contrast",), "test", "contrast"),
            arm=arm,
            export=name == "n30",
        )
        for name, arm in (("label", "label only"), ("n30", f"SCoTD, N = {scotd.N}"))
    }
    config = c.Config(
        name=f"SCoTD: IMDb and its contrast set, {settings.student}",
        tasks={
            name: dataclasses.replace(common.task(name, common.data_folder(settings)), **truncation)
            for name in ("imdb", "imdb_contrast")
        },
        rationales={"sampled": common.teacher(settings, questions, sampling, few_shot=3)},
        corpora=corpora,
        students=students,
        evaluation=c.Evaluation(sampling=c.Sampling(temperature=0.0)),
    )
    return common.finish(common.with_references(config, settings, "n30", few_shot=3), settings)
