"""The report's example entries are made from the files of the evaluations."""

import dataclasses

from scotd_jax.jobs.report_parts.report_examples import example_entries
from scotd_jax.reporting.data import RunResult
from tests.helpers.preference_run import EVALUATED, evaluated, long_rows, preference_run


def test_entries_have_the_first_run_of_every_arm_and_its_votes(tmp_path):
    run = preference_run(tmp_path)
    questions = list(run.questions.questions("t.test"))
    samples = [
        dataclasses.replace(row, sample_index=k, answer=answer)
        for row in long_rows(questions)
        for k, answer in enumerate(("no", "yes", None, "yes"))
    ]
    evaluated(run, "long", long_rows(questions), samples)
    results = [
        RunResult("the long arm", "long", 0, {}, votes={"t.test": {"k": 4}}),
        RunResult("the long arm", "short", 1, {}),
        RunResult("the short arm", "short", 0, {}),
        RunResult("the short arm", "long", 0, {}, read="choices"),
    ]
    entries = example_entries(run, results)
    assert sorted(len(entry.questions) for entry in entries) == [1] * (EVALUATED - 2) + [2]
    for entry in entries:
        assert list(entry.answers) == ["the long arm", "the short arm"]
        assert {row.model for row in entry.answers["the long arm"]} == {"long"}
        assert {row.model for row in entry.answers["the short arm"]} == {"short"}
        assert entry.votes == {"the long arm": [{"yes": 2, "no": 1, "no answer": 1}] * len(entry.questions)}
    two_models = [dataclasses.replace(results[0], model="OPT"), dataclasses.replace(results[0], model="T5")]
    assert list(example_entries(run, two_models)[0].answers) == ["the long arm (OPT)", "the long arm (T5)"]
    assert example_entries(run, []) == []
