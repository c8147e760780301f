"""Coverage of the report's 95 % intervals and size of its tests at 5 %, by simulation.

    python -m benchmarks.statistics [--simulations=3000]        (two minutes on one core)

Answers are simulated from a logistic model: question, cluster of questions and training run have normal effects on the
log-odds of a right answer. Per case, coverage is the share of simulations in which the interval contains the true value
over all questions and runs: of the accuracy of an arm, and of the difference from an arm with another accuracy. Size is
the share in which a test rejects although the arms have equal accuracy: of the difference of two arms, and of the trend
over three. The standard error of 3,000 simulations is 0.004.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator

import numpy as np
from scipy import special

from scotd_jax.artefact import versions
from scotd_jax.evaluation.intervals import Estimate, accuracy_interval
from scotd_jax.evaluation.outcome_tables import OutcomeTable
from scotd_jax.evaluation.paired_tests import compare_paired, trend_test

CONFIDENCE = 0.95
QUESTION_SD = 1.5  # standard deviation of the effect of a question
CLUSTER_SHARE = 0.6  # of the variance of questions that their cluster explains
LOG_ODDS, EFFECT = 0.5, -0.6  # of the equal arms at the median question and run, and change to that of the other arm
DRAWS = 2_000  # of a sign-flip test


@dataclasses.dataclass(frozen=True)
class Case:
    """A design of simulated evaluations.

    Attributes:
      runs: training runs of every arm.
      questions: questions of a run.
      cluster_size: questions that share a passage.
      run_sd: standard deviation of the effect of a training run; 0.4 are about 7 points of accuracy.
      own_questions: whether every run has questions of its own, like the worlds of configs/world_seeds.py.
      log_odds: as `LOG_ODDS`.
    """

    runs: int
    questions: int = 256
    cluster_size: int = 1
    run_sd: float = 0.0
    own_questions: bool = False
    log_odds: float = LOG_ODDS

    @property
    def name(self) -> str:
        """The runs, and all fields that differ from their defaults."""
        fields = [f for f in dataclasses.fields(self) if getattr(self, f.name) != f.default]
        return ", ".join(f"{f.name} {getattr(self, f.name)}" for f in fields)


CASES = [
    *(Case(1, questions, cluster_size) for questions, cluster_size in ((256, 1), (256, 4), (60, 1))),
    *(Case(3, 256, size, 0.15) for size in (1, 4)),
    *(Case(runs, 256, size, sd) for runs in (3, 5, 10) for size in (1, 4) for sd in (0.0, 0.4)),
    *(Case(runs, questions, own_questions=True, run_sd=0.15) for runs, questions in ((3, 256), (10, 64))),
    *(Case(runs, run_sd=0.4 if runs > 1 else 0.0, log_odds=3.0) for runs in (1, 3)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=3000, help="simulated evaluations per case")
    args = parser.parse_args()
    coverage, size = {}, {}
    for case in CASES:
        coverage[case.name], size[case.name] = simulate(case, args.simulations)
        print(f"{case.name}: coverage {coverage[case.name]}, size {size[case.name]}", flush=True)
    output = {"benchmark": "statistics", "coverage": coverage, "size": size, "simulations": args.simulations}
    print(json.dumps(output | {"versions": versions()}))


def simulate(case: Case, simulations: int) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the shares of intervals that cover the true value, and of tests that reject a true hypothesis."""
    accuracy, other = true_accuracy(case, case.log_odds), true_accuracy(case, case.log_odds + EFFECT)
    covers: dict[str, list[bool]] = {"accuracy": [], "difference": []}
    rejects: dict[str, list[bool]] = {"difference": [], "trend": []}
    for first, second, third, worse in arms(case, np.random.default_rng(0), simulations):
        covers["accuracy"].append(contains(accuracy_interval(first, CONFIDENCE), accuracy))
        effect = compare_paired(first, worse, CONFIDENCE, DRAWS).effect
        covers["difference"].append(contains(effect, accuracy - other))
        rejects["difference"].append(compare_paired(first, second, CONFIDENCE, DRAWS).p_value < 1 - CONFIDENCE)
        rejects["trend"].append(trend_test([first, second, third], CONFIDENCE, DRAWS).p_value < 1 - CONFIDENCE)
    return shares(covers), shares(rejects)


def arms(case: Case, rng: np.random.Generator, simulations: int) -> Iterator[list[OutcomeTable]]:
    """Yields the outcomes of three equal arms and one with another accuracy on the same questions."""
    sets = case.runs if case.own_questions else 1
    clusters = sets * case.questions // case.cluster_size
    clusters_Q = np.repeat(np.arange(clusters), case.cluster_size)
    has_question = np.ones((case.runs, len(clusters_Q)), bool)
    if case.own_questions:
        has_question = np.repeat(np.eye(case.runs, dtype=bool), case.questions, axis=1)
    share = CLUSTER_SHARE if case.cluster_size > 1 else 0.0
    log_odds_A = case.log_odds + np.array([0.0, 0.0, 0.0, EFFECT])
    for _ in range(simulations):
        own, common = rng.normal(size=len(clusters_Q)), rng.normal(size=clusters)
        question_Q = QUESTION_SD * (np.sqrt(1 - share) * own + np.sqrt(share) * common[clusters_Q])
        run_AR = case.run_sd * rng.normal(size=(len(log_odds_A), case.runs))
        chance_ARQ = special.expit(log_odds_A[:, None, None] + run_AR[:, :, None] + question_Q)
        values_ARQ = np.where(has_question, rng.random(chance_ARQ.shape) < chance_ARQ, np.nan)
        yield [OutcomeTable(values_RQ, clusters_Q) for values_RQ in values_ARQ]


def true_accuracy(case: Case, log_odds: float) -> float:
    """Returns the accuracy over all questions and runs, by numerical integration over their effects."""
    quantiles = special.ndtri((np.arange(20_000) + 0.5) / 20_000)
    return float(special.expit(log_odds + np.hypot(QUESTION_SD, case.run_sd) * quantiles).mean())


def contains(interval: Estimate, value: float) -> bool:
    return interval.low <= value <= interval.high


def shares(counted: dict[str, list[bool]]) -> dict[str, float]:
    return {name: round(float(np.mean(values)), 4) for name, values in counted.items()}


if __name__ == "__main__":
    main()
