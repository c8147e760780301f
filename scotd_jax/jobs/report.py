"""The report job: writes all results to one page. The page is always rewritten, since this takes little time."""

import json

from scotd_jax.artefact import FOLDERS
from scotd_jax.config import plain
from scotd_jax.config.compared_arms import compared_arms
from scotd_jax.config.eval_specs import eval_specs, first_reading
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.inspection.responses import response_sets
from scotd_jax.jobs.report_parts.evaluated_sets import read_evaluated, set_label
from scotd_jax.jobs.report_parts.lm_eval_results import write_lm_eval_results
from scotd_jax.jobs.report_parts.report_examples import example_entries
from scotd_jax.jobs.report_parts.run_costs import run_costs
from scotd_jax.jobs.report_parts.run_facts import (
    example_prompts,
    human_preferences,
    ledgers,
    reported_questions,
    run_facts,
    training_curve,
)
from scotd_jax.jobs.report_parts.run_results import run_results
from scotd_jax.reporting.data import EvalSet, ReportData
from scotd_jax.reporting.html_page import write_report
from scotd_jax.reporting.results_table import write_results

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
        questions=reported_questions(context, specs.values()),
        sets=[EvalSet(label, about=ABOUT_SPLITS.get(label.rpartition(".")[2], "")) for label in labels],
        facts=run_facts(context),
        ledgers=ledgers(context),
        curves={student: training_curve(context, student) for student in config.students},
        costs=run_costs(context),
        prompts=example_prompts(context),
        response_sets=list(response_sets(context, EXAMPLES_PER_BIN)),
        examples=example_entries(context, results),
        preferences=human_preferences(context),
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
