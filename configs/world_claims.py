"""The papers' claims in the embedded world, each tested: samples, labels, sizes, settings, selections and two stages.

    scotd-jax --config=world_claims --workdir=runs/world_claims

Each seed is a world with its own facts, teacher, samples and students. All students of a size start from the same
weights and make the same number of updates. The claims and the arms that test them are in `CLAIMS`; the report has them
as a table, also in report/claims.md. docs/results.md has the table of one seed.
"""

import dataclasses
from typing import NamedTuple

from scotd_jax import config as c

SIZES = {  # name: fields of the architecture; all have two layers
    "small": {"hidden_size": 32, "num_attention_heads": 2, "ffn_dim": 128},
    "medium": {"hidden_size": 64, "num_attention_heads": 2, "ffn_dim": 256},
    "large": {"hidden_size": 96, "num_attention_heads": 3, "ffn_dim": 384},
}
NUMBERS = (1, 2, 5, 10, 20, 30)  # samples per question
# Percent of the training questions -> folds of them. Each set contains the smaller ones.
LABELS = {10: ("@0/10",), 20: ("@0/5",), 40: ("@0/5", "@1/5"), 100: ("",)}
SELECTIONS = {  # Corpus.cap_by -> words
    "random": "at random",
    "likely": "by likelihood",
    "diverse": "by diversity",
    "rank_surprisal": "by rank-surprisal ratio",
    "rationale_difficulty": "by rationale difficulty",
}
SCORED = ("rank_surprisal", "rationale_difficulty")  # selections that compare scores under a student
BUDGET = 5  # responses per question of a selection
VOTES = 10  # samples of every student for self-consistency
LABEL_ONLY, GREEDY, FULL, TWO_STAGES = "label only", "one greedy chain", "SCoTD, N = 30", "two stages"
UNTRAINED = "untrained, zero-shot"


class Data(NamedTuple):
    """Training data of an arm: fields of its corpus."""

    source: str = "sampled"  # set of responses; "" for none
    recipe: str = "scotd"
    n: int = 0
    keep: str = "correct"
    labels: int = 100  # a key of LABELS
    cap_by: str = ""  # a key of SELECTIONS; "" keeps all


LABEL_DATA = Data("", "label")
ARMS = {  # row of the report: its data
    LABEL_ONLY: LABEL_DATA,
    GREEDY: Data("greedy", n=1),
    **{f"SCoTD, N = {n}": Data(n=n) for n in NUMBERS},
    **{
        f"{LABEL_ONLY}, {share} % of the questions": LABEL_DATA._replace(labels=share)
        for share in LABELS
        if share < 100
    },
    **{f"{FULL}, {share} % of the questions": Data(n=30, labels=share) for share in LABELS if share < 100},
    # Without gold answers, as in the few-shot setting of the paper: responses are not filtered.
    "few-shot: the teacher's labels": Data("greedy", "teacher_label", n=1, keep="all"),
    f"few-shot: {FULL}": Data(n=30, keep="all"),
    **{f"{BUDGET} of 30, {words}": Data(cap_by=name) for name, words in SELECTIONS.items()},
}
SIZED_ARMS = (LABEL_ONLY, FULL)  # arms of the sizes other than "medium"

TEST, CONTRAST, UNSEEN, LONGER, CONSISTENT = (
    *(f"world.{split}" for split in ("test", "contrast", "unseen", "longer")),
    "contrast consistency",
)
CLAIMS = {
    "before": c.Claim("Training makes the model better", (f"{FULL} vs {UNTRAINED}", f"{LABEL_ONLY} vs {UNTRAINED}")),
    "rationales": c.Claim("Sampled rationales are better than labels, at every size", (f"{FULL} vs {LABEL_ONLY}",)),
    "samples": c.Claim(
        "Accuracy rises with the number of samples",
        trend=tuple(f"SCoTD, N = {n}" for n in NUMBERS),
        sets=(TEST, CONTRAST, UNSEEN),
    ),
    "greedy": c.Claim("Many samples are better than one chain", (f"{FULL} vs {GREEDY}", f"{FULL} vs SCoTD, N = 1")),
    "contrast": c.Claim(
        "Rationales keep students from following a spurious cue",
        (f"{FULL} vs {LABEL_ONLY}",),
        sets=(CONTRAST, CONSISTENT),
    ),
    "unseen": c.Claim(
        "Rationales help on unseen tasks and on longer chains", (f"{FULL} vs {LABEL_ONLY}",), sets=(UNSEEN, LONGER)
    ),
    "fewer": c.Claim(
        "Rationales are better than labels with 10, 20 and 40 % of the questions",
        tuple(f"{FULL}, {n} % of the questions vs {LABEL_ONLY}, {n} % of the questions" for n in LABELS if n < 100),
    ),
    "efficient": c.Claim(
        "Rationales of 40 % of the questions are better than the labels of all",
        (f"{FULL}, 40 % of the questions vs {LABEL_ONLY}",),
    ),
    "sizes": c.Claim("Larger students are better", (f"{FULL} vs {FULL}",)),
    "votes": c.Claim("Self-consistency is better than one greedy response", votes=(FULL,), sets=(TEST, CONTRAST)),
    "filter": c.Claim("The filter by gold answers helps", (f"{FULL} vs few-shot: {FULL}",)),
    "few_shot": c.Claim(
        "Without gold answers, rationales are better than the teacher's labels",
        (f"few-shot: {FULL} vs few-shot: the teacher's labels",),
    ),
    "stages": c.Claim("Two stages are better than labels", (f"{TWO_STAGES} vs {LABEL_ONLY}",)),
    "one_stage": c.Claim("Two stages are better than one", (f"{TWO_STAGES} vs {FULL}",)),
    **{
        f"selection_{name}": c.Claim(
            f"{BUDGET} of 30 samples selected {words} are better than {BUDGET} at random",
            (f"{BUDGET} of 30, {words} vs {BUDGET} of 30, at random",),
        )
        for name, words in SELECTIONS.items()
        if name != "random"
    },
    "budget": c.Claim(f"30 samples are better than {BUDGET} of them", (f"{FULL} vs {BUDGET} of 30, at random",)),
}


def get_config(arg=None):
    settings = c.parse_arg(arg, seeds=3, runlocal=False)
    world = c.sibling(__file__, "world")
    config = c.merged([claims_world(world, seed, f"s{seed}_") for seed in range(settings.seeds)])
    evaluation = dataclasses.replace(
        config.evaluation,
        self_consistency=dataclasses.replace(world.SAMPLING, n=VOTES, temperature=0.7, batch_size=32),
        # The comparisons of all claims, so that the page lists no others.
        comparisons=tuple(dict.fromkeys(pair for claim in CLAIMS.values() for pair in claim.comparisons)),
        claims=CLAIMS,
    )
    config = dataclasses.replace(config, name="The papers' claims in the embedded world", evaluation=evaluation)
    return c.config_dict(runlocal(world, config) if settings.runlocal else config)


def runlocal(world, config: c.Config) -> c.Config:
    """Returns the config with few questions and updates, but enough that no part of the questions is empty."""
    config = world.runlocal(config, arms=())
    tasks = {
        name: dataclasses.replace(task, options=task.options | {"train": 40}) for name, task in config.tasks.items()
    }
    return dataclasses.replace(config, tasks=tasks)


def claims_world(world, seed: int, prefix: str) -> c.Config:
    """Returns the world of one seed with all arms. All names begin with the prefix."""
    base = world.world(seed, {"opt": ("n30",)}, prefix)
    task, one_stage = f"{prefix}world", base.students[f"{prefix}n30_opt"]
    corpora, students = dict(base.corpora), {f"{prefix}teacher": base.students[f"{prefix}teacher"]}
    del corpora[one_stage.corpus]
    for size in ("medium", *(size for size in SIZES if size != "medium")):
        for arm in ARMS if size == "medium" else SIZED_ARMS:
            data = ARMS[arm]
            corpus = f"{prefix}{_slug(arm)}"
            corpora[corpus] = _corpus(data, task, prefix)
            training = one_stage.training
            if not data.source:
                optimizer = dataclasses.replace(training.optimizer, learning_rate=world.RATES["opt"]["label"])
                training = dataclasses.replace(training, optimizer=optimizer)
            students[f"{corpus}_{size}"] = dataclasses.replace(
                one_stage, corpus=corpus, training=training, arm=arm, export=False, model=_model(one_stage.model, size)
            )
    untrained = c.EvalSpec(f"{prefix}label_only_medium", one_stage.eval_sets, UNTRAINED, checkpoint="initial")
    config = dataclasses.replace(base, corpora=corpora, students=students, evals={f"{prefix}untrained": untrained})
    return c.merged([config, two_stages(world, config, one_stage, task, prefix)])


def two_stages(world, config: c.Config, one_stage: c.Student, task: str, prefix: str) -> c.Config:
    """Returns the students of Sci-CoT, and the rationales that the first stage generates for the second."""
    corpora = {
        f"{prefix}{stage}": dataclasses.replace(config.corpora[f"{prefix}scotd_n_30"], recipe=recipe)
        for stage, recipe in (("stage1", "rationale"), ("stage2", "infer"))
    }
    first = dataclasses.replace(one_stage, corpus=f"{prefix}stage1", arm="", dev_sets=(), eval_sets=(), export=False)
    second = dataclasses.replace(
        one_stage,
        corpus=f"{prefix}stage2",
        # The targets of the second stage are short; its rate is that of configs/world_scicot.py.
        training=world.training(world.UPDATES["opt"], 16, 2, 3e-3),
        rationales_from=(f"{prefix}stage1",),
        model=world.second_stage_model(one_stage.model),
        arm=TWO_STAGES,
        export=False,
    )
    generated = c.ModelSource(
        questions=(f"{task}.dev", *one_stage.eval_sets),
        model=c.Model(student=f"{prefix}stage1"),
        sampling=dataclasses.replace(world.SAMPLING, temperature=0.0),
        seed=one_stage.seed,
    )
    return dataclasses.replace(
        c.Config(),
        rationales={f"{prefix}stage1": generated},
        corpora=corpora,
        students={f"{prefix}stage1": first, f"{prefix}stage2": second},
    )


def _corpus(data: Data, task: str, prefix: str) -> c.Corpus:
    return c.Corpus(
        recipe=data.recipe,
        rationales=(f"{prefix}{data.source}",) if data.source else (),
        questions=tuple(f"{task}.train{fold}" for fold in LABELS[data.labels]),
        n=data.n,
        keep=data.keep,
        cap=BUDGET if data.cap_by else 0,
        cap_by=data.cap_by or "first",
        # Warmed up on one response per question.
        scored_by=f"{prefix}scotd_n_1_medium" if data.cap_by in SCORED else "",
        decontaminate=0,  # as in configs/world.py
    )


def _model(model: c.Model, size: str) -> c.Model:
    return dataclasses.replace(model, overrides=model.overrides | SIZES[size])


def _slug(arm: str) -> str:
    """The name of an arm in the config, e.g. "scotd_n_30_20_of_the_questions"."""
    words = "".join(letter if letter.isalnum() else " " for letter in arm.lower().replace("'", ""))
    return "_".join(words.split())
