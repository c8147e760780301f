"""The report job: everything that was found, on one page. Made anew each time: it is cheap and never out of date."""

import json
import platform

import jax

from scotd_jax.config import EvalSpec, GeneratedSource, Student, plain
from scotd_jax.evaluation.scoring import outcomes
from scotd_jax.jobs.context import Run
from scotd_jax.jobs.graph import eval_specs
from scotd_jax.rationales.store import read_responses
from scotd_jax.records import Question, Response
from scotd_jax.reporting.data import EvalSet, ReportData, RunResult
from scotd_jax.reporting.examples import pick_examples, pick_pairs
from scotd_jax.reporting.html_page import write_report
from scotd_jax.tasks import recipes
from scotd_jax.tasks.question_sets import QuestionSet
from scotd_jax.training.metrics import read_metrics
from scotd_jax.workdir import read_json, versions

ABOUT = {
    "test": "Questions like those that students trained on.",
    "contrast": "Test questions with one step changed, so that the other option becomes right.",
    "unseen": "Combinations of family and number of steps that no student trained on.",
    "longer": "More steps than anyone trained on.",
}


def report(run: Run, name: str) -> None:
    """report/index.html. Raises InputError if a student has not been evaluated yet."""
    del name
    config, artefact = run.config, run.artefact("report", "")
    asked = eval_specs(config)
    arms = [_arm(run, name, asking) for name, asking in asked.items()]
    labels = dict.fromkeys(label(run, set_name) for asking in asked.values() for set_name in asking.eval_sets)
    method, plainest = _extremes(arms)
    data = ReportData(
        title=config.name or "scotd_jax",
        runs=arms,
        sets=[EvalSet(key, about=ABOUT.get(key.rpartition(".")[2], "")) for key in labels],
        facts=_facts(run),
        ledgers={n: read_json(p) for n in config.corpora if (p := _corpus(run, n) / "ledger.json").exists()},
        curves={n: _curve(run, n) for n in config.students},
        costs={n: cost for n in config.students if (cost := run.artefact("train", n).manifest()["counts"].get("cost"))},
        examples=_examples(run, method),
        pairs=_pairs(run, [arm for arm in (plainest, method) if arm is not None]),
        confidence=config.evaluation.confidence,
        config=json.dumps(plain(config), indent=2),
    )
    write_report(artefact.path / "index.html", data)
    run.log(f"  {artefact.path / 'index.html'}")


def label(run: Run, set_name: str) -> str:
    """How the report calls a question set: tasks of one title (one per seed) share their columns."""
    where = QuestionSet.parse(set_name)
    return f"{run.config.tasks[where.task].title or where.task}.{set_name.removeprefix(where.task + '.')}"


def _arm(run: Run, name: str, asking: EvalSpec) -> RunResult:
    student = run.config.students[asking.student]
    results = read_json(run.artefact("evaluate", name).path / "results.json")
    _ = run.artefact("evaluate", name).digest  # refuses an evaluation that is not complete
    sets = results["sets"]
    samples, curve = _samples(run, student)
    return RunResult(
        name=asking.arm,
        student=name,
        seed=run.config.seed + student.seed,
        results={label(run, key): value for key, value in sets.items()},
        role=_role(run, asking.student),
        model=_model_name(run, student),
        samples=samples,
        curve=curve,
        outcomes={label(run, key): outcomes(*_said(run, name, key)) for key in sets},
        votes={label(run, key): r["self_consistency"] for key, r in sets.items() if "self_consistency" in r},
        consistency=results["contrast"],
    )


def _samples(run: Run, student: Student) -> tuple[int | None, str]:
    """Chains of thought per question behind a student, and the name of the curve on which it is a point."""
    corpus = run.config.corpora[student.corpus]
    if not recipes.uses_fields(run.recipe(student.corpus), *recipes.RESPONSE_FIELDS):
        return 0, ""
    sources = [run.config.rationales[source] for source in corpus.rationales]
    if any(source.source == "task" for source in sources):
        return None, ""
    n = max(run.artefact("sample", source).manifest()["counts"]["responses_max"] for source in corpus.rationales)
    # One greedy chain is another thing than the first of many sampled ones, and so is another recipe.
    sampled = corpus.recipe == "scotd" and not any(
        isinstance(source, GeneratedSource) and source.sampling.temperature == 0 for source in sources
    )
    return min(corpus.n or n, n), _model_name(run, student) if sampled else ""


def _role(run: Run, name: str) -> str:
    if any(r.source == "model" and r.model.student == name for r in run.config.rationales.values()):
        return "teacher"
    return "base" if any(s.model.student == name for s in run.config.students.values()) else "student"


def _model_name(run: Run, student: Student) -> str:
    functions = run.model(student.model, student.precision)
    size = sum(leaf.size for leaf in jax.tree.leaves(functions.abstract()))
    digits = f"{size / 1e9:.2g}B" if size >= 1e9 else f"{size / 1e6:.2g}M"
    return f"{getattr(functions.config, 'model_type', functions.config.kind).upper()} {digits}"


def _said(run: Run, name: str, set_name: str) -> tuple[list[Question], list[Response]]:
    path = run.artefact("evaluate", name).path / f"{set_name}.responses.jsonl"
    return [question for question, _ in run.reported(set_name).values()], list(read_responses([path]))


def _extremes(arms: list[RunResult]) -> tuple[RunResult | None, RunResult | None]:
    """The arm with most samples, and the one of the same model that learnt from labels alone."""
    students = [arm for arm in arms if arm.role == "student" and arm.samples is not None]
    if not students:
        return (arms[0] if arms else None), None
    method = max(students, key=lambda arm: arm.samples)
    alike = [arm for arm in students if (arm.model, arm.seed) == (method.model, method.seed)]
    return method, next((arm for arm in alike if arm.samples == 0), None)


def _examples(run: Run, arm: RunResult | None) -> list:
    if arm is None:
        return []
    main = eval_specs(run.config)[arm.student].eval_sets[0]
    return pick_examples(*_said(run, arm.student, main), arm.name, label(run, main))


def _pairs(run: Run, arms: list[RunResult]) -> list:
    if not arms:
        return []
    said = {
        arm.name: [_said(run, arm.student, s) for s in eval_specs(run.config)[arm.student].eval_sets] for arm in arms
    }
    questions = [question for set_questions, _ in said[arms[0].name] for question in set_questions]
    answers = {name: {row.question_id: row for _, rows in sets for row in rows} for name, sets in said.items()}
    return pick_pairs(questions, answers)


def _curve(run: Run, name: str) -> list[tuple[int, float | None, float | None]]:
    rows = read_metrics(run.artefact("train", name).path / "metrics.jsonl")
    return [(row["step"], row.get("loss"), row.get("dev_accuracy")) for row in rows]


def _facts(run: Run) -> dict[str, str]:
    facts = {"students": str(len(run.config.students)), "seed": str(run.config.seed)}
    for name, rationales in run.config.rationales.items():
        if rationales.source in ("model", "server", "batch"):
            counts = run.artefact("sample", name).manifest().get("counts", {})
            said = f"{counts.get('responses', 0):,} responses to {counts.get('questions', 0):,} questions"
            # A first stage answers nothing, so nothing it says is right or wrong.
            right = f", {100 * counts['correct_share']:.1f} % right" if counts.get("correct") else ""
            facts[f"samples {name}"] = said + right
    devices = jax.devices()
    facts["devices"] = f"{len(devices)} x {devices[0].device_kind}, {platform.machine()}"
    found = versions()
    return facts | {key: found[key] for key in ("scotd_jax", "jax", "python")}


def _corpus(run: Run, name: str):
    return run.artefact("build", name).path
