"""The entries of the report's example browser: responses of all arms to the same questions."""

import collections
from collections.abc import Mapping, Sequence

from scotd_jax.config.eval_specs import eval_specs
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.report_parts.evaluated_sets import read_evaluated, read_samples, set_label
from scotd_jax.records import Question, Response
from scotd_jax.reporting.data import BrowserEntry, RunResult
from scotd_jax.reporting.examples import pick_entries

NO_ANSWER = "no answer"


def example_entries(context: RunContext, results: Sequence[RunResult]) -> list[BrowserEntry]:
    """Returns entries with the responses of the first run of every arm, and its votes where it has some."""
    specs = eval_specs(context.config)
    questions: dict[str, dict[str, Question]] = collections.defaultdict(dict)
    answers: dict[str, dict[str, Response]] = {}
    votes: dict[str, dict[str, Mapping[str, int]]] = {}
    for arm, result in _first_runs(results).items():
        spec = specs[result.student]
        answers[arm] = {}
        for set_name in spec.eval_sets:
            label = set_label(context, set_name)
            found, rows = read_evaluated(context, result.student, set_name, result.read)
            questions[label] |= {question.id: question for question in found}
            answers[arm] |= {row.question_id: row for row in rows if row.sample_index == 0}
            if voted := result.votes.get(label):
                _, samples = read_samples(context, result.student, spec, set_name, result.read, voted["k"])
                votes.setdefault(arm, {}).update(_count_votes(samples))
    return pick_entries({label: list(found.values()) for label, found in questions.items()}, answers, votes)


def _first_runs(results: Sequence[RunResult]) -> dict[str, RunResult]:
    """The first run of every arm, by name. Answers are read from the text if any are."""
    results = [result for result in results if result.read == "text"] or list(results)
    several = len({result.model for result in results if result.model}) > 1
    runs: dict[str, RunResult] = {}
    for result in results:
        runs.setdefault(f"{result.name} ({result.model})" if several and result.model else result.name, result)
    return runs


def _count_votes(samples: Sequence[Response]) -> dict[str, dict[str, int]]:
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for sample in samples:
        counts[sample.question_id][NO_ANSWER if sample.answer is None else sample.answer] += 1
    return {id_: dict(count.most_common()) for id_, count in counts.items()}
