"""An invented run, for the tests of the report and for looking at it: no model was trained for these numbers."""

import random

from scotd_jax.evaluation import contrast, scoring, voting
from scotd_jax.records import Question, Response
from scotd_jax.reporting.data import EvalSet, ReportData, RunResult
from scotd_jax.reporting.examples import pick_examples, pick_pairs

SETS = {"test": 0.0, "contrast": -0.05, "unseen": -0.10, "longer": -0.18}
ARMS = {  # name: samples, accuracy, pull of the cue
    "label-only": (0, 0.50, 0.09),
    "one greedy chain": (1, 0.56, 0.05),
    "N = 1": (1, 0.40, 0.03),
    "N = 5": (5, 0.61, 0.02),
    "N = 30": (30, 0.77, 0.01),
}
ABOUT = {
    "label-only": "trained on answers alone",
    "one greedy chain": "trained on the teacher's single most likely chain",
    "N = 30": "SCoTD: 30 sampled chains per question, the right ones kept",
    "teacher": "wrote the chains",
}
PLACES = ("barn", "tower", "mill", "cafe", "harbour", "library")
STEPS = ("ferry", "tunnel", "lift", "bridge", "path")


def questions(split: str, count: int) -> list[Question]:
    made = []
    for i in range(count):
        rng = random.Random(i)  # the same for test and contrast, but for one step
        start, first, other = rng.sample(PLACES, 3)
        steps = rng.choices(STEPS, k=3)
        answer = first
        if split == "contrast":
            steps[1], answer = next(s for s in STEPS if s != steps[1]), other
        way = ", then the ".join(steps)
        text = f"dan is at the {start} and takes the {way}. {first} or {other}?"
        group = f"world/{i}" if split in ("test", "contrast") else None
        tags = (rng.choice(("town", "paints", "animals")), f"{rng.choice((2, 3))} steps")
        made.append(Question(f"world/{split}/{i}", "world", split, text, (first, other), answer, group, tags=tags))
    return made


def responses(asked: list[Question], arm: str, accuracy: float, seed: int, n: int = 1) -> list[Response]:
    said = []
    for question in asked:
        rng = random.Random(f"{arm} {seed} {question.id}")
        for k in range(n):
            readable = rng.random() > 0.02
            right = readable and rng.random() < accuracy
            wrong = next(c for c in question.choices if c != question.answer)
            answer = (question.answer if right else wrong) if readable else None
            rationale = f"at the start. the way leads on to {answer}. so the answer is {answer}" if readable else None
            rationale = None if arm == "label-only" else rationale
            text = rationale or str(answer)
            said.append(
                Response(
                    question.id,
                    k,
                    text if readable else "at at the the",
                    rationale,
                    answer,
                    right,
                    "stop" if readable else "length",
                    -3.0,
                    len(text.split()),
                    arm,
                    "greedy",
                )
            )
    return said


def arm(
    name: str, seed: int, model: str, bonus: float, per_set: int, votes: bool
) -> tuple[RunResult, dict[str, Response]]:
    samples, accuracy, cue = ARMS.get(name, (None, 0.9, 0.0))
    accuracy += bonus + random.Random(f"{name}{seed}{model}").gauss(0, 0.015)
    results, outcomes, voted, everything, asked = {}, {}, {}, {}, []
    for split, loss in SETS.items():
        these = questions(split, per_set)
        here = accuracy + (cue if split == "test" else -cue if split == "contrast" else 0) + loss * (accuracy > 0.55)
        said = responses(these, name, here, seed)
        results[f"world.{split}"] = scoring.score(these, said)
        outcomes[f"world.{split}"] = scoring.outcomes(these, said)
        everything |= {r.question_id: r for r in said}
        asked += these
        if votes and split == "test":
            voted[f"world.{split}"] = voting.self_consistency(these, responses(these, name, here, seed, n=10))
    made = RunResult(
        name=name,
        student=f"{model}-{name}-{seed}".replace(" ", ""),
        seed=seed,
        results=results,
        role="student" if name in ARMS else "teacher",
        model=model if name in ARMS else "",
        samples=samples,
        curve=model if name.startswith("N =") else "",
        about=ABOUT.get(name, ""),
        outcomes=outcomes,
        votes=voted,
        consistency=contrast.contrast_consistency(
            asked, {q: r.correct for q, r in everything.items() if r.correct is not None}
        ),
    )
    return made, everything


def invented(
    seeds: int = 1, models: tuple[str, ...] = ("opt-tiny",), per_set: int = 128, bonus: float = 0.0
) -> ReportData:
    """A whole report's data. `bonus` is added to the accuracy of N = 30."""
    arms, said = [], {}
    for model in models:
        for name in ARMS:
            for seed in range(seeds):
                extra = (bonus if name == "N = 30" else 0.0) - (0.04 if model != models[0] else 0.0)
                made, everything = arm(name, seed, model, extra, per_set, votes=name == "N = 30")
                arms.append(made)
                if seed == 0 and model == models[0]:
                    said[name] = everything
    arms.append(arm("teacher", 0, "", 0.0, per_set, votes=False)[0])
    shown = {name: said[name] for name in ("label-only", "N = 30")}
    test = questions("test", per_set)
    curves = {}
    for a in arms:
        start = 4.0 if a.samples is None or a.samples else 1.5
        rng = random.Random(a.student)
        loss = [(s, start * 0.5 ** (s / 150) + 0.4 + rng.gauss(0, 0.03), None) for s in range(0, 1000, 5)]
        dev = [(s, None, min(1.0, 0.35 + 0.4 * s / 1000 + rng.gauss(0, 0.02))) for s in range(100, 1001, 150)]
        curves[a.student] = sorted(loss + dev, key=lambda row: row[0])
    bins = {"kept": 9650, "wrong": 2500, "unparsable": 610, "truncated": 240, "duplicate": 0, "too_long": 0}
    return ReportData(
        title="scotd_jax: invented world run",
        runs=arms,
        sets=[
            EvalSet("world.test", about="Questions like those that students trained on, none of them the same."),
            EvalSet("world.contrast", about="Test questions with one step changed, which turns the answer round."),
            EvalSet(
                "world.unseen", "unseen combinations", "Kinds of question with numbers of steps that no student read."
            ),
            EvalSet("world.longer", "longer chains", "More steps than in any question that a student read."),
        ],
        facts={
            "Questions": "450 for training, 128 dev",
            "Teacher": "opt-tiny, 0.34M parameters, trained here",
            "Samples": "30 per question at temperature 0.7",
            "Students": "opt-tiny, 1,500 updates each",
            "Software": "scotd_jax 0.1.0, jax 0.10.2",
            "Devices": "1 CPU",
            "Time": "6 min 12 s",
            "Seeds": ", ".join(map(str, range(seeds))),
        },
        ledgers={
            "sampled-30": {"bins": bins | {"not_selected": 0}, "questions": {"answered": 450, "with_kept": 447}},
            "sampled-5": {
                "bins": {"kept": 1612, "wrong": 404, "unparsable": 150, "truncated": 84, "not_selected": 10750}
            },
        },
        curves=curves,
        examples=pick_examples(test, said["N = 30"].values(), "N = 30", "world.test"),
        pairs=pick_pairs([*test, *questions("contrast", per_set)], shown),
        config='{\n  "name": "invented"\n}',
    )
