"""The report job: writes all results to one page. The page is always rewritten, since this takes little time."""

import json
import platform
from collections.abc import Iterable
from typing import Any

import jax

from scotd_jax.artefact import FOLDERS, versions
from scotd_jax.config import EvalSpec, GeneratedSource, plain
from scotd_jax.config.compared_arms import compared_arms
from scotd_jax.config.eval_specs import eval_specs, first_reading
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.inspection.prompts import prompt_views
from scotd_jax.jobs.inspection.responses import response_sets
from scotd_jax.jobs.preferences.results import annotated_pages, preference_result
from scotd_jax.jobs.report_parts.evaluated_sets import read_evaluated, set_label
from scotd_jax.jobs.report_parts.lm_eval_results import write_lm_eval_results
from scotd_jax.jobs.report_parts.report_examples import example_entries
from scotd_jax.jobs.report_parts.run_costs import run_costs
from scotd_jax.jobs.report_parts.run_results import run_results
from scotd_jax.records import Question
from scotd_jax.reporting.data import EvalSet, PreferenceResult, PromptView, ReportData
from scotd_jax.reporting.html_page import write_report
from scotd_jax.reporting.results_table import write_results
from scotd_jax.strict_json import read_json
from scotd_jax.tasks.truncation import TAG
from scotd_jax.training.metrics import read_metrics

EXAMPLES_PER_BIN = 2  # responses on the page per set and bin (inspection/responses.py)

# Descriptions of the splits of the embedded world.
ABOUT_SPLITS = {
    "test": "Questions like those that students trained on.",
    "contrast": "Test questions with one step changed, so that the other option becomes right.",
    "unseen": "Combinations of family and number of steps that no student trained on.",
    "longer": "More steps than any training question has.",
}


def report(context: RunContext, name: str) -> None:
    """Writes report/index.html with results.{tex,md,csv,json,parquet}, and lm_eval/NAME in the layout of lm-eval.

    The page shows all complete artefacts, and lists the incomplete evaluations. There is one report per run, so `name`
    is empty.
    """
    del name
    config, artefact = context.config, context.artefact("report", "")
    specs = {key: spec for key, spec in eval_specs(config).items() if context.artefact("evaluate", key).complete}
    results = [result for key, spec in specs.items() for result in run_results(context, key, spec)]
    labels = dict.fromkeys(set_label(context, set_name) for spec in specs.values() for set_name in spec.eval_sets)
    data = ReportData(
        title=config.name or "scotd_jax",
        runs=results,
        questions=_questions(context, specs.values()),
        sets=[EvalSet(label, about=ABOUT_SPLITS.get(label.rpartition(".")[2], "")) for label in labels],
        facts=_facts(context),
        ledgers=_ledgers(context),
        curves={student: _training_curve(context, student) for student in config.students},
        costs=run_costs(context),
        prompts=_prompts(context),
        response_sets=list(response_sets(context, EXAMPLES_PER_BIN)),
        examples=example_entries(context, results),
        preferences=_preferences(context),
        confidence=config.evaluation.confidence,
        config=json.dumps(plain(config), indent=2),
        commands=context.workdir.commands(),
        comparisons=compared_arms(config),
        claims=config.evaluation.claims,
        columns=config.columns,
    )
    write_report(artefact.path, data)
    write_results(artefact.path, data)
    for key, spec in specs.items():
        evaluated = {name: read_evaluated(context, key, name, first_reading(spec)) for name in spec.eval_sets}
        write_lm_eval_results(context, spec, evaluated, artefact.path / "lm_eval" / key)
    context.workdir.record(FOLDERS["report"])
    context.log(f"  {artefact.path / 'index.html'}")


def _questions(context: RunContext, specs: Iterable[EvalSpec]) -> dict[str, Question]:
    """All reported questions by id."""
    names = dict.fromkeys(set_name for spec in specs for set_name in spec.eval_sets)
    return {id_: q for name in names for id_, (q, _) in context.reported_questions(name).items()}


def _training_curve(context: RunContext, student: str) -> list[tuple[int, float | None, float | None]]:
    """(step, loss, dev accuracy) of every metrics line."""
    artefact = context.artefact("train", student)
    path = (context.checked("train", student) if artefact.complete else artefact).path / "metrics.jsonl"
    rows = read_metrics(path) if path.exists() else []
    return [(row["step"], row.get("loss"), row.get("dev_accuracy")) for row in rows]


def _prompts(context: RunContext) -> list[PromptView]:
    """The prompts of the models; none if a tokenizer or data set is missing, so that the report does not fail."""
    try:
        return prompt_views(context, 1)
    except InputError as error:
        context.log(f"  the report shows no prompts: {error}")
        return []


def _preferences(context: RunContext) -> list[PreferenceResult]:
    """The results of all preference pages with choices; none if a file is refused, so that the report does not fail."""
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


def _ledgers(context: RunContext) -> dict[str, Any]:
    """The ledger of every corpus that is made of responses."""
    complete = [name for name in context.config.corpora if context.artefact("build", name).complete]
    paths = {name: context.checked("build", name).path / "ledger.json" for name in complete}
    return {name: read_json(path) for name, path in paths.items() if path.exists()}


def _facts(context: RunContext) -> dict[str, str]:
    """Facts about the run: students, samples, devices and versions."""
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
