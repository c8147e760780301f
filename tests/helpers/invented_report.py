"""Invented data of a report, for tests and for viewing the page; its numbers come from no trained model."""

import random

from scotd_jax.evaluation import contrast, scoring, voting
from scotd_jax.records import Question, Response
from scotd_jax.reporting.data import EvalSet, ReportData, RunResult
from scotd_jax.reporting.examples import pick_entries

SETS = {"test": 0.0, "contrast": -0.05, "unseen": -0.10, "longer": -0.18}
ARMS = {  # name -> samples per question, accuracy, gain on test and loss on contrast by a spurious cue
    "label-only": (0, 0.50, 0.09),
    "one greedy chain": (1, 0.56, 0.05),
    "N = 1": (1, 0.40, 0.03),
    "N = 5": (5, 0.61, 0.02),
    "N = 30": (30, 0.77, 0.01),
}
DESCRIPTIONS = {
    "label-only": "trained on answers only",
    "one greedy chain": "trained on the teacher's greedy chain",
    "N = 30": "SCoTD: 30 sampled chains per question, correct ones kept",
    "teacher": "generated the chains",
}
LOCATIONS = ("barn", "tower", "mill", "cafe", "harbour", "library")
STEPS = ("ferry", "tunnel", "lift", "bridge", "path")


def questions(split: str, count: int) -> list[Question]:
    """Returns invented questions of a split."""
    made = []
    for i in range(count):
        rng = random.Random(i)  # the same for all splits, so that test and contrast differ in one step only
        start, first, other = rng.sample(LOCATIONS, 3)
        steps = rng.choices(STEPS, k=3)
        answer = first
        if split == "contrast":
            steps[1], answer = next(s for s in STEPS if s != steps[1]), other
        route = ", then the ".join(steps)
        choices = (first, other) if i % 3 else (other, first)
        text = f"dan is at the {start} and takes the {route}. {choices[0]} or {choices[1]}?"
        group = f"world/{i}" if split in ("test", "contrast") else None
        tags = (rng.choice(("town", "paints", "animals")), f"{rng.choice((2, 3))} steps")
        made.append(Question(f"world/{split}/{i}", "world", split, text, choices, answer, group, tags=tags))
    return made


def responses(questions: list[Question], arm: str, accuracy: float, seed: int, n: int = 1) -> list[Response]:
    """Returns `n` invented responses of an arm to each question, with about this accuracy."""
    made = []
    for question in questions:
        rng = random.Random(f"{arm} {seed} {question.id}")
        for k in range(n):
            parsable = rng.random() > 0.02
            right = parsable and rng.random() < accuracy
            wrong = next(c for c in question.choices if c != question.answer)
            answer = (question.answer if right else wrong) if parsable else None
            rationale = f"at the start. the next stop is {answer}. so the answer is {answer}" if parsable else None
            rationale = None if arm == "label-only" else rationale
            text = rationale or str(answer)
            made.append(
                Response(
                    question.id,
                    k,
                    text if parsable else "at at the the",
                    rationale,
                    answer,
                    right,
                    "stop" if parsable else "length",
                    -3.0,
                    len(text.split()),
                    arm,
                    "greedy",
                )
            )
    return made


def arm(
    name: str, seed: int, model: str, bonus: float, per_set: int, votes: bool
) -> tuple[RunResult, dict[str, Response]]:
    """Returns the invented results of one run, and its responses by question id."""
    samples, accuracy, cue = ARMS.get(name, (None, 0.9, 0.0))
    accuracy += bonus + random.Random(f"{name}{seed}{model}").gauss(0, 0.015)
    results, outcomes, sampledby_set, vote_outcomes, all_responses, all_questions = {}, {}, {}, {}, {}, []
    for split, loss in SETS.items():
        split_questions = questions(split, per_set)
        split_accuracy = (
            accuracy + (cue if split == "test" else -cue if split == "contrast" else 0) + loss * (accuracy > 0.55)
        )
        split_responses = responses(split_questions, name, split_accuracy, seed)
        results[f"world.{split}"] = scoring.score(split_questions, split_responses)
        outcomes[f"world.{split}"] = scoring.outcomes(split_questions, split_responses)
        all_responses |= {r.question_id: r for r in split_responses}
        all_questions += split_questions
        if votes and split == "test":
            sampled = responses(split_questions, name, split_accuracy, seed, n=10)
            sampledby_set[f"world.{split}"] = voting.self_consistency(split_questions, sampled)
            vote_outcomes[f"world.{split}"] = voting.vote_outcomes(split_questions, sampled)
    made = RunResult(
        name=name,
        student=f"{model}-{name}-{seed}".replace(" ", ""),
        seed=seed,
        results=results,
        role="student" if name in ARMS else "teacher",
        model=model if name in ARMS else "",
        samples=samples,
        curve=model if name.startswith("N =") else "",
        about=DESCRIPTIONS.get(name, ""),
        outcomes=outcomes,
        votes=sampledby_set,
        vote_outcomes=vote_outcomes,
        consistency=contrast.contrast_consistency(
            all_questions, {q: r.correct for q, r in all_responses.items() if r.correct is not None}
        ),
    )
    return made, all_responses


def invented(
    seeds: int = 1, models: tuple[str, ...] = ("opt-tiny",), per_set: int = 128, bonus: float = 0.0
) -> ReportData:
    """Returns the data of a report with `per_set` questions per set; `bonus` is added to the accuracy of N = 30."""
    runs, by_arm = [], {}
    for model in models:
        for name in ARMS:
            for seed in range(seeds):
                extra = (bonus if name == "N = 30" else 0.0) - (0.04 if model != models[0] else 0.0)
                made, all_responses = arm(name, seed, model, extra, per_set, votes=name == "N = 30")
                runs.append(made)
                if seed == 0 and model == models[0]:
                    by_arm[name] = all_responses
    runs.append(arm("teacher", 0, "", 0.0, per_set, votes=False)[0])
    by_set = {f"world.{split}": questions(split, per_set) for split in SETS}
    votes = {"N = 30": {question.id: {"harbour": 6, "mill": 4} for question in by_set["world.test"]}}
    curves = {}
    for run in runs:
        start = 4.0 if run.samples is None or run.samples else 1.5
        rng = random.Random(run.student)
        loss = [(s, start * 0.5 ** (s / 150) + 0.4 + rng.gauss(0, 0.03), None) for s in range(0, 1000, 5)]
        dev = [(s, None, min(1.0, 0.35 + 0.4 * s / 1000 + rng.gauss(0, 0.02))) for s in range(100, 1001, 150)]
        curves[run.student] = sorted(loss + dev, key=lambda row: row[0])
    bins = {"kept": 9650, "wrong": 2500, "unparsable": 610, "truncated": 240, "duplicate": 0, "too_long": 0}
    return ReportData(
        title="scotd_jax: invented world run",
        runs=runs,
        questions={question.id: question for members in by_set.values() for question in members},
        sets=[
            EvalSet("world.test", about="New questions of the same kinds as in training."),
            EvalSet("world.contrast", about="Test questions with one step edited, which flips the answer."),
            EvalSet(
                "world.unseen",
                "unseen combinations",
                "Question types with numbers of steps that are not in the training data.",
            ),
            EvalSet("world.longer", "longer chains", "More steps than in any training question."),
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
        examples=pick_entries(by_set, by_arm, votes),
        config='{\n  "name": "invented"\n}',
        commands=["scotd-jax --config=invented --workdir=runs/invented"],
    )
