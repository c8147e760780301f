"""What the report shows about a run besides its results: questions, facts, ledgers, training, prompts, preferences."""

import platform
from collections.abc import Iterable
from typing import Any

import jax

from scotd_jax.artefact import versions
from scotd_jax.config import EvalSpec, GeneratedSource
from scotd_jax.config.eval_specs import eval_specs
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.inspection.prompts import prompt_views
from scotd_jax.jobs.preferences.results import annotated_pages, preference_result
from scotd_jax.jobs.report_parts.evaluated_sets import set_label
from scotd_jax.records import Question
from scotd_jax.reporting.data import PreferenceResult, PromptView
from scotd_jax.strict_json import read_json
from scotd_jax.tasks.truncation import TAG
from scotd_jax.training.metrics import read_metrics


def reported_questions(context: RunContext, specs: Iterable[EvalSpec]) -> dict[str, Question]:
    """Returns all reported questions by id."""
    names = dict.fromkeys(set_name for spec in specs for set_name in spec.eval_sets)
    return {id_: q for name in names for id_, (q, _) in context.reported_questions(name).items()}


def training_curve(context: RunContext, student: str) -> list[tuple[int, float | None, float | None]]:
    """Returns (step, loss, dev accuracy) of every metrics line."""
    artefact = context.artefact("train", student)
    path = (context.checked("train", student) if artefact.complete else artefact).path / "metrics.jsonl"
    rows = read_metrics(path) if path.exists() else []
    return [(row["step"], row.get("loss"), row.get("dev_accuracy")) for row in rows]


def example_prompts(context: RunContext) -> list[PromptView]:
    """Returns the prompts of the models; none if a tokenizer or data set is missing: the report does not fail."""
    try:
        return prompt_views(context, 1)
    except InputError as error:
        context.log(f"  the report shows no prompts: {error}")
        return []


def human_preferences(context: RunContext) -> list[PreferenceResult]:
    """Returns the results of all preference pages with choices; none if a file is refused: the report does not fail."""
    confidence = context.config.evaluation.confidence
    try:
        return [
            preference_result(annotated, set_label(context, annotated.page.set_name), confidence)
            for annotated in annotated_pages(context)
            if annotated.annotators
        ]
    except InputError as error:
        context.log(f"  the report shows no human preferences: {error}")
        return []


def ledgers(context: RunContext) -> dict[str, Any]:
    """Returns the ledger of every corpus that is made of responses."""
    complete = [name for name in context.config.corpora if context.artefact("build", name).complete]
    paths = {name: context.checked("build", name).path / "ledger.json" for name in complete}
    return {name: read_json(path) for name, path in paths.items() if path.exists()}


def run_facts(context: RunContext) -> dict[str, str]:
    """Returns facts about the run: students, samples, devices and versions."""
    facts = {"students": str(len(context.config.students)), "seed": str(context.config.seed)}
    missing = [key for key in eval_specs(context.config) if not context.artefact("evaluate", key).complete]
    if missing:
        facts["not evaluated yet"] = ", ".join(missing)
    for name, source in context.config.rationales.items():
        if isinstance(source, GeneratedSource):
            counts = context.artefact("sample", name).manifest().get("counts", {})
            fact = f"{counts.get('responses', 0):,} responses to {counts.get('questions', 0):,} questions"
            if counts.get("correct"):  # rationales without an answer are neither right nor wrong
                fact += f", {100 * counts['correct_share']:.1f} % correct"
            facts[f"samples {name}"] = fact
    for set_name in dict.fromkeys(name for spec in eval_specs(context.config).values() for name in spec.eval_sets):
        tags = [question.tags for question, _ in context.reported_questions(set_name).values()]
        if truncated := sum(TAG in question_tags for question_tags in tags):
            facts[f"truncated in {set_label(context, set_name)}"] = f"{truncated:,} of {len(tags):,} questions"
    devices = jax.devices()
    facts["devices"] = f"{len(devices)} x {devices[0].device_kind}, {platform.machine()}"
    found = versions()
    return facts | {key: found[key] for key in ("scotd_jax", "jax", "python")}
