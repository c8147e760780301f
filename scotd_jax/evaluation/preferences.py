"""Human preferences between two arms, A and B: win rates with intervals, and a sign test.

The unit is the pair, not the choice: the choices of several annotators on one pair depend on each other, so each pair
counts once, with the preference of the majority.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from scipy import stats

from scotd_jax.evaluation.intervals import Estimate, wilson_interval
from scotd_jax.evaluation.multiplicity import holm_correction

Preference = Literal["a", "tie", "b"]


class PreferenceSummary(NamedTuple):
    """Preferences over a set of pairs.

    Attributes:
      pairs: number of pairs with at least one choice.
      a: pairs for which A is preferred.
      ties: pairs without a majority for A or B.
      b: pairs for which B is preferred.
      win_rate: share of A among the pairs without ties, with its Wilson interval; None if all pairs are ties.
      p_value: p-value of the sign test, Holm-corrected over the summaries that were made together.
    """

    pairs: int
    a: int
    ties: int
    b: int
    win_rate: Estimate | None
    p_value: float


def majority_preference(choices: Sequence[Preference]) -> Preference:
    """Returns the preference of most annotators between A and B; "tie" if equally many prefer each."""
    a, b = choices.count("a"), choices.count("b")
    return "a" if a > b else "b" if b > a else "tie"


def sign_test(wins: int, losses: int) -> float:
    """Returns the p-value of the exact two-sided sign test: wins and losses are equally likely; ties have no effect."""
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def summarize_preferences(
    choices: Mapping[str, Sequence[Preference]], subsets: Mapping[str, Collection[str]], confidence: float = 0.95
) -> dict[str, PreferenceSummary]:
    """Summarizes the preferences over each subset of the pairs.

    Args:
      choices: pair -> the choices of the annotators.
      subsets: name of a subset -> its pairs. The sign tests of all subsets are one family.
      confidence: confidence level of the win rates.
    """
    counts = {name: _count([choices[pair] for pair in pairs if choices.get(pair)]) for name, pairs in subsets.items()}
    p_values = holm_correction([sign_test(count["a"], count["b"]) for count in counts.values()])
    return {
        name: PreferenceSummary(
            pairs=sum(count.values()),
            a=count["a"],
            ties=count["tie"],
            b=count["b"],
            win_rate=wilson_interval(count["a"], decided, confidence) if (decided := count["a"] + count["b"]) else None,
            p_value=p_value,
        )
        for (name, count), p_value in zip(counts.items(), p_values, strict=True)
    }


def _count(choices: Sequence[Sequence[Preference]]) -> dict[Preference, int]:
    majorities = [majority_preference(of_pair) for of_pair in choices]
    return {preference: majorities.count(preference) for preference in ("a", "tie", "b")}
