"""A pretrained student and published rationales of large teachers: SCoTD with one and many against labels only.

    scotd-jax --config=pretrained:task=quarel,data=DATA --workdir=runs/quarel

Three tasks have published rationales. They are imported from subfolders of `rationales`, by default DATA/rationales:

    quarel  QuaRel, 5 per question by text-davinci-003: subfolder quarel_davinci003, from data/quarel/gpt3 of
            github.com/INK-USC/RationaleMultiRewardDistillation
    obqa    OpenBookQA, 22 per question by three teachers at several granularities, in the order of the file names, so
            that the first 5 are by one teacher: subfolder openbookqa_multi, from data of
            github.com/EIT-NLP/Distilling-CoT-Reasoning
    csqa    CommonsenseQA, 1 per question by PaLM 540B: subfolder commonsenseqa_palm540b, from datasets/cqa/llm of
            github.com/google-research/distilling-step-by-step; with responses to the reported questions, so that the
            report has a row for PaLM 540B

Without `data` the questions come from the Hub. With `data`, the training questions of QuaRel are those of its rationale
file. All arms start from the same weights and make the same number of updates; the reported checkpoint is the best on
dev.

Settings, besides those of configs/common.py: `steps`, `batch` (questions per update) and `group` (rationales of a
question per update); `rate` and `label_rate`, the peak learning rates with and without rationales; `seeds`, the number
of seeds; `arms`, such as label+n5; `selections`, such as random+rank_surprisal, which adds an arm for each of these
values of Corpus.cap_by, with `budget` of all rationales of a question (scores under a student are those of n1, seed 0).
To choose a rate, train with several (`--jobs=sample,build,train`) and compare the best dev accuracies in
students/*/metrics.jsonl.
"""

import pathlib
from typing import NamedTuple

from scotd_jax import config as c
from scotd_jax.errors import InputError, did_you_mean
from scotd_jax.rationales.selections import SELECTIONS, STUDENT_SELECTIONS


class PublishedRationales(NamedTuple):
    """Published rationales of a task."""

    importer: str  # also the name of their folder
    files: str  # pattern of their file names
    test_files: str  # pattern of the files with responses to the reported questions; "" if there are none
    counts: tuple[int, ...]  # numbers of rationales per question, with one arm for each
    max_tokens: int  # longest response, in tokens


PUBLISHED = {
    "quarel": PublishedRationales("quarel_davinci003", "train_gpt3_responses.jsonl*", "", (1, 5), 96),
    "obqa": PublishedRationales("openbookqa_multi", "*_ranked.json*", "", (1, 5, 22), 192),
    "csqa": PublishedRationales("commonsenseqa_palm540b", "train_CoT_*.json*", "test_CoT_*.json*", (1,), 96),
}
BUDGET = 2  # responses per question of a selection
VOTES = 10  # responses per question for self-consistency


def get_config(arg=None):
    common = c.sibling(__file__, "common")
    own = {"task": "quarel", "student": "smollm2-135m-instruct", "rationales": "", "arms": "", "seeds": 1}
    own |= {"selections": "", "budget": BUDGET}
    training = {"steps": 900, "batch": 16, "group": 1, "rate": 5e-5, "label_rate": 5e-5}
    settings = common.parse_settings(arg, **own, **training)
    if settings.task not in PUBLISHED:
        raise InputError(f"task={settings.task}: has no published rationales; {did_you_mean(settings.task, PUBLISHED)}")
    published = PUBLISHED[settings.task]
    folder = (
        pathlib.Path(settings.rationales or f"{settings.data or 'data'}/rationales").absolute() / published.importer
    )
    if not settings.responses and (settings.data or settings.rationales or not settings.runlocal):
        settings.responses, settings.importer = str(folder / published.files), published.importer
        if published.test_files and not settings.test_responses:
            settings.test_responses = str(folder / published.test_files)
    train, dev, reported = common.splits(settings.task, settings.runlocal)
    task = common.task(settings.task, common.data_folder(settings))
    if settings.task == "quarel" and settings.data:
        files = {"train": str(folder / published.files), "dev": "*dev.jsonl", "test": "*test.jsonl"}
        task = c.Task(task.kind, path=task.path, options={"files": files})
    arms = selected_arms(published.counts, settings)
    scorer = "n1_0" if settings.seeds > 1 else "n1"
    corpora = {
        name: c.Corpus(
            recipe="scotd" if arm.count else "label",
            format=common.prompt_format(settings),
            rationales=("published",) if arm.count else (),
            questions=(train,),
            n=arm.count,
            max_response_tokens=published.max_tokens,
            cap=settings.budget if arm.selection else 0,
            cap_by=arm.selection or "first",
            scored_by=scorer if arm.selection in STUDENT_SELECTIONS else "",
        )
        for name, arm in arms.items()
    }
    exported = [name for name, arm in arms.items() if not arm.selection][-1]
    students = {
        f"{name}_{seed}" if settings.seeds > 1 else name: c.Student(
            model=common.model(settings.student, settings),
            corpus=name,
            training=training_settings(settings, settings.rate if arm.count else settings.label_rate),
            dev_sets=(dev,),
            eval_sets=reported,
            arm=arm.title,
            export=name == exported and seed == 0,
            seed=seed,
        )
        for name, arm in arms.items()
        for seed in range(settings.seeds)
    }
    sampled = c.Sampling(n=max(published.counts), temperature=1.0, batch_size=8)  # only for runlocal without files
    config = c.Config(
        name=f"{settings.task}: {settings.student}",
        tasks={settings.task: task},
        rationales={"published": common.teacher(settings, (train,), sampled)},
        corpora=corpora,
        students=students,
        evaluation=c.Evaluation(
            read="both",
            sampling=c.Sampling(temperature=0.0, max_new_tokens=published.max_tokens),
            self_consistency=c.Sampling(VOTES, 0.7, max_new_tokens=published.max_tokens, batch_size=8),
            dev_questions=300,
        ),
    )
    return common.finish(common.with_references(config, settings, list(students)[-1]), settings)


class Arm(NamedTuple):
    """An arm: its row of the report, the rationales per question (0 for labels only), and a selection of them."""

    title: str
    count: int
    selection: str = ""


def selected_arms(counts: tuple[int, ...], settings) -> dict[str, Arm]:
    """Returns the arms of a task by name. `settings.arms` selects some: "label+n5"; "" is all."""
    arms = {"label": Arm("label only", 0), **{f"n{count}": Arm(f"SCoTD, N = {count}", count) for count in counts}}
    chosen = settings.arms.split("+") if settings.arms else list(arms)
    if unknown := [name for name in chosen if name not in arms]:
        raise InputError(f"arms={settings.arms}: {unknown[0]!r} is no arm; {did_you_mean(unknown[0], arms)}")
    arms = {name: arm for name, arm in arms.items() if name in chosen}
    for name in filter(None, settings.selections.split("+")):
        if name not in (known := {**SELECTIONS, **STUDENT_SELECTIONS}):
            raise InputError(f"selections={settings.selections}: {name!r} is unknown; {did_you_mean(name, known)}")
        if name in STUDENT_SELECTIONS and "n1" not in arms:
            raise InputError(f"selections={settings.selections}: {name!r} needs the student of arm n1; add it to arms")
        arms[name] = Arm(f"{settings.budget} of {max(counts)}, {name}", max(counts), name)
    return arms


def training_settings(settings, rate: float) -> c.Training:
    """Returns the training of an arm: AdamW with linear decay, and six evaluations on dev."""
    optimizer = c.Optimizer("adamw", rate, "linear", warmup_steps=settings.steps // 20)
    return c.Training(
        settings.steps,
        settings.batch,
        settings.group,
        optimizer=optimizer,
        eval_every=max(1, settings.steps // 6),
    )
