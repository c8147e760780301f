"""Outcomes of runs on questions as an array, from which all intervals and tests are computed."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Outcomes = Mapping[str, float]  # of one run: question id -> 1 right, 0 wrong, or a share of several samples


class OutcomeTable(NamedTuple):
    """Outcomes of one arm.

    Attributes:
      values: float64[runs, questions], between 0 and 1; NaN if the run has not answered the question.
      clusters: int[questions], the number of the cluster of every question (`question_groups.question_clusters`).
    """

    values: np.ndarray
    clusters: np.ndarray

    @property
    def num_clusters(self) -> int:
        """Number of distinct clusters."""
        return int(self.clusters.max()) + 1

    @property
    def is_binomial(self) -> bool:
        """Whether the outcomes are one run's independent answers, right or wrong."""
        runs, questions = self.values.shape
        is_binary = bool(((self.values == 0) | (self.values == 1)).all())
        return runs == 1 and self.num_clusters == questions and is_binary


def outcome_table(runs: Sequence[Outcomes], clusters: Mapping[str, str] | None = None) -> OutcomeTable:
    """Returns the table of some runs.

    Args:
      runs: the outcomes of every run. Runs may have the same questions, others, or some in common.
      clusters: question id -> name of its cluster; a question that is not in it is a cluster of its own.

    Raises:
      ValueError: if there are no runs, or a run has no questions.
    """
    if not runs or not all(runs):
        raise ValueError("every run needs at least one question")
    (table,) = _tables([runs], clusters or {})
    return table


def paired_tables(
    arms: Sequence[Sequence[Outcomes]], clusters: Mapping[str, str] | None = None
) -> list[OutcomeTable] | None:
    """Returns one table for each arm, with the questions that run r of every arm has answered.

    Args:
      arms: per arm the outcomes of every run; run r of all arms belong together.
      clusters: as in `outcome_table`.

    Returns:
      Tables of equal shape with NaN at the same places; None if no run has a question in common with the others.

    Raises:
      ValueError: if the arms have different numbers of runs.
    """
    shared = []
    for runs in zip(*arms, strict=True):
        ids = [id_ for id_ in runs[0] if all(id_ in run for run in runs[1:])]
        if ids:
            shared.append([{id_: run[id_] for id_ in ids} for run in runs])
    return _tables([list(runs) for runs in zip(*shared, strict=True)], clusters or {}) if shared else None


def _tables(arms: list[Sequence[Outcomes]], clusters: Mapping[str, str]) -> list[OutcomeTable]:
    """Tables of arms with the same questions."""
    ids = list(dict.fromkeys(id_ for run in arms[0] for id_ in run))
    numbers: dict[str, int] = {}
    clusters_Q = np.array([numbers.setdefault(clusters.get(id_, id_), len(numbers)) for id_ in ids])
    return [
        OutcomeTable(np.array([[run.get(id_, np.nan) for id_ in ids] for run in runs], np.float64), clusters_Q)
        for runs in arms
    ]
