"""What a report is made of: plain Python values, so that it can be written from any run, or by hand.

Nothing here is computed; `tables` averages and compares, `headline` puts the outcome into words.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from scotd_jax.records import Question, Response


@dataclasses.dataclass(frozen=True)
class EvalSet:
    """A question set of the report; `label` is its key in `RunResult.results` ("world.test"), `title` its name."""

    label: str
    title: str = ""  # "" is the part of the label after the dot
    about: str = ""  # one sentence: what is special about these questions

    @property
    def name(self) -> str:
        return self.title or self.label.rpartition(".")[2]


@dataclasses.dataclass(frozen=True)
class RunResult:
    """One trained model and its results. Arms of equal `name` and `model` are runs of one row and are averaged.

    `results` maps set labels to `evaluation.scoring.score`, `outcomes` to `scoring.outcomes` (needed for comparisons),
    `votes` to `evaluation.voting.vote`; `consistency` is `evaluation.contrast.consistency`. `samples` is how many
    chains of thought per question the student's corpus was drawn from: 0 is label-only, None where it has no meaning.
    Arms of equal `curve` (not "") are points of one accuracy-against-samples curve. Roles "teacher" and "base" are
    shown for orientation and never compared.
    """

    name: str
    student: str
    seed: int
    results: Mapping[str, Mapping[str, Any]]
    role: Literal["student", "teacher", "base"] = "student"
    model: str = ""
    samples: int | None = None
    curve: str = ""
    about: str = ""
    outcomes: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    votes: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    consistency: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Example:
    """A question and what an arm said to it."""

    question: Question
    response: Response
    arm: str
    set_label: str = ""


@dataclasses.dataclass(frozen=True)
class ContrastPair:
    """The members of a contrast group, and arm name -> what it said to each of them (same order)."""

    questions: Sequence[Question]
    answers: Mapping[str, Sequence[Response]]


@dataclasses.dataclass(frozen=True)
class ReportData:
    """Everything a report shows; empty parts leave out their section.

    `sets` fixes the order of the sets, the first is the main one. `facts` says what was run, short names to short
    values. `ledgers` maps a corpus to its `Ledger.to_json`. `curves` maps a student to rows of (step, training loss or
    None, dev accuracy or None), `costs` to the cost in its manifest (`training.accounting.summarize_cost`).
    `config` is the resolved config as JSON text. `method` names the arm that is compared
    with all others; "" takes the one with most samples.
    """

    title: str
    runs: Sequence[RunResult]
    sets: Sequence[EvalSet] = ()
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ledgers: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    curves: Mapping[str, Sequence[tuple[int, float | None, float | None]]] = dataclasses.field(default_factory=dict)
    costs: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    examples: Sequence[Example] = ()
    pairs: Sequence[ContrastPair] = ()
    confidence: float = 0.95
    config: str = ""
    method: str = ""
