"""Content of a report as plain Python values, independent of work directories and of all of the config but its claims.

`tables` averages the results, `comparisons` tests their differences, and `headline` summarizes them in words.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from scotd_jax.config import Claim, compared_arms
from scotd_jax.evaluation import contrast
from scotd_jax.evaluation.intervals import Estimate
from scotd_jax.evaluation.preferences import PreferenceSummary
from scotd_jax.evaluation.question_groups import contrast_groups, question_clusters
from scotd_jax.records import Question, Response


@dataclasses.dataclass(frozen=True)
class EvalSet:
    """A question set of the report.

    Attributes:
      label: key in `RunResult.results`, for example "world.test".
      title: name in the report; if "", the name is the part of the label after the dot.
      about: one sentence on the difference to the other sets.
    """

    label: str
    title: str = ""
    about: str = ""

    @property
    def name(self) -> str:
        """The name in the report."""
        return self.title or self.label.rpartition(".")[2]


# The column of contrast consistency in the table of comparisons.
CONSISTENCY = EvalSet(compared_arms.CONSISTENCY, compared_arms.CONSISTENCY)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """One model with its results. Runs of equal `name`, `model` and `read` form an arm, one row of the tables.

    Attributes:
      name: name of the arm.
      student: name of the student in the config.
      seed: seed of the run; comparisons pair runs of equal seed.
      results: set label -> `evaluation.scoring.score`.
      role: "teacher" and "base" are reference models, which only named comparisons include. "untrained" is the model
        that a student starts from.
      model: name of the base model; rows are grouped by it.
      samples: number N of rationales per question in the student's corpus; 0 is label-only, None if not applicable.
      labels: number of questions in the student's question sets; None if unknown.
      parameters: number of parameters of the model; None for reference models.
      curve: equal for students that differ only in `model`, `samples`, `labels` and `parameters`, and in the length and
        rates of their training; "" for none.
      about: one sentence on the arm.
      outcomes: set label -> `evaluation.scoring.outcomes`, for the same sets as `results`.
      votes: set label -> `evaluation.voting.self_consistency`.
      vote_outcomes: set label -> `evaluation.voting.vote_outcomes`, for the same sets as `votes`.
      consistency: `evaluation.contrast.contrast_consistency`.
      read: how answers were obtained: "text" parses the response, "choices" takes the most likely choice.
      changes: set label -> change of the rationales -> the answers after it; only with `read` "choices".
    """

    name: str
    student: str
    seed: int
    results: Mapping[str, Mapping[str, Any]]
    role: Literal["student", "untrained", "teacher", "base"] = "student"
    model: str = ""
    samples: int | None = None
    labels: int | None = None
    parameters: int | None = None
    curve: str = ""
    about: str = ""
    outcomes: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    votes: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    vote_outcomes: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    consistency: Mapping[str, Any] | None = None
    read: Literal["text", "choices"] = "text"
    changes: Mapping[str, Mapping[str, "ChangedAnswers"]] = dataclasses.field(default_factory=dict)


class ChangedAnswers(NamedTuple):
    """Answers after changed rationales: by question id whether they differ from the own ones, and whether right."""

    changed: Mapping[str, float]
    right: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Example:
    """A question with an arm's response."""

    question: Question
    response: Response
    arm: str
    set_label: str = ""


@dataclasses.dataclass(frozen=True)
class BrowserEntry:
    """A question, or the members of a contrast group, with the responses of the arms.

    Attributes:
      questions: the members.
      set_labels: label of the set of each member.
      answers: arm -> its responses to the members in the same order.
      votes: arm that votes -> answer -> number of samples with this answer, for each member; {} for a member without.
    """

    questions: Sequence[Question]
    set_labels: Sequence[str]
    answers: Mapping[str, Sequence[Response]]
    votes: Mapping[str, Sequence[Mapping[str, int]]] = dataclasses.field(default_factory=dict)

    def outcome(self, arm: str) -> Literal["right", "wrong", "flipped", "none"]:
        """Returns whether an arm is right on all members, on none, on some ("flipped"), or has no responses."""
        if arm not in self.answers:
            return "none"
        correct = {bool(response.correct) for response in self.answers[arm]}
        return "flipped" if len(correct) > 1 else "right" if correct == {True} else "wrong"


@dataclasses.dataclass(frozen=True)
class PromptView:
    """Prompt and training target of one question, with special tokens.

    Attributes:
      role: "teacher", "student in training" or "student under evaluation".
      names: sets of responses, students or evaluations that share this prompt.
      about: model, recipe and other settings, in words.
      question_id: id of the question.
      prompt: the whole prompt.
      prompt_tokens: its number of tokens; None for a server, whose tokenizer is unknown.
      target: text on which the loss is computed, in training; "" otherwise.
      target_tokens: its number of tokens.
      ends: strings that end a generated response.
    """

    role: str
    names: tuple[str, ...]
    about: str
    question_id: str
    prompt: str
    prompt_tokens: int | None
    target: str = ""
    target_tokens: int = 0
    ends: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ResponseBin:
    """The number of responses in a bin, and a few examples."""

    total: int
    examples: Sequence[Example]


@dataclasses.dataclass(frozen=True)
class ResponseSet:
    """A set of responses: its name in the config, and its bins by name."""

    name: str
    bins: Mapping[str, ResponseBin]

    @property
    def summary(self) -> str:
        """The size of every bin, for example "10 responses: 6 correct, 4 unparsable"."""
        counts = ", ".join(f"{bin_.total:,} {name}" for name, bin_ in self.bins.items())
        return f"{sum(bin_.total for bin_ in self.bins.values()):,} responses: {counts}"


@dataclasses.dataclass(frozen=True)
class PreferenceResult:
    """Human preferences between two arms, A and B.

    Attributes:
      name: name of the page.
      arms: names of A and B.
      set_label: label of the question set.
      pairs: number of pairs on the page.
      annotators: annotator -> number of choices.
      summaries: subset of the pairs -> its summary.
      alpha: Krippendorff's alpha; None if no pair has two choices or all choices are equal.
      first_rate: share of the choices for the response that is shown first, without ties; None if all are ties.
      confidence: confidence level of the intervals.
    """

    name: str
    arms: tuple[str, str]
    set_label: str
    pairs: int
    annotators: Mapping[str, int]
    summaries: Mapping[str, PreferenceSummary]
    alpha: float | None
    first_rate: Estimate | None
    confidence: float


@dataclasses.dataclass(frozen=True)
class ReportData:
    """The content of a report. The section of an empty field is left out.

    Attributes:
      title: title of the page.
      runs: all trained models and reference models.
      questions: question id -> question, of all sets. Intervals and tests count questions that depend on each other as
        one (`evaluation.question_groups`).
      sets: question sets in the order of the report; the first one is the main set.
      facts: settings and figures of the whole run, short names to short values.
      ledgers: corpus -> `Ledger.to_json`.
      curves: student -> rows of (step, training loss or None, dev accuracy or None).
      costs: student -> the cost in its manifest (`training.accounting.summarize_cost`), and training_flops and
        sampling_flops where they are known.
      prompts: example prompts of the models of the run.
      response_sets: example responses of every set.
      examples: entries of the example browser.
      preferences: human preferences between two arms, one entry per page.
      confidence: confidence level of all intervals; 1 - confidence is the significance level.
      config: the resolved config as JSON text.
      commands: the command lines of the run.
      comparisons: names of two arms to compare, first minus second; () selects the default pairs
        (`comparisons.default_pairs`). The headline is about the first pair.
      claims: statements that are tested, by name (claims.py).
      columns: `RunResult.student` -> values of further columns of the results table (results_table.py).
    """

    title: str
    runs: Sequence[RunResult]
    questions: Mapping[str, Question] = dataclasses.field(default_factory=dict)
    sets: Sequence[EvalSet] = ()
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ledgers: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    curves: Mapping[str, Sequence[tuple[int, float | None, float | None]]] = dataclasses.field(default_factory=dict)
    costs: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    prompts: Sequence[PromptView] = ()
    response_sets: Sequence[ResponseSet] = ()
    examples: Sequence[BrowserEntry] = ()
    preferences: Sequence[PreferenceResult] = ()
    confidence: float = 0.95
    config: str = ""
    commands: Sequence[str] = ()
    comparisons: Sequence[tuple[str, str]] = ()
    claims: Mapping[str, Claim] = dataclasses.field(default_factory=dict)
    columns: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def clusters(self) -> dict[str, str]:
        """Question id -> id of the first question of its cluster."""
        return question_clusters(self.questions.values())

    @functools.cached_property
    def contrast_groups(self) -> dict[str, list[Question]]:
        """The contrast groups by name."""
        return contrast_groups(self.questions.values())

    @functools.cached_property
    def group_clusters(self) -> dict[str, str]:
        """Name of a contrast group -> name of its cluster."""
        return {name: self.clusters[group[0].id] for name, group in self.contrast_groups.items()}

    def consistent_groups(self, run: RunResult) -> dict[str, float]:
        """Returns for every contrast group that a run has answered whether all members are right."""
        right = {id_: value for outcomes in run.outcomes.values() for id_, value in outcomes.items()}
        return contrast.consistent_groups(self.contrast_groups, right)
