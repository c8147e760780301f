"""Config schema of evaluation: what is evaluated and how, and which arms the report compares.

Fields and comments follow the conventions of `schema`.
"""

import dataclasses
from typing import Literal

from scotd_jax.config.rationale_sources import Names, Sampling
from scotd_jax.errors import FieldError

RationaleControl = Literal["own", "truncated", "shuffled", "other", "empty"]
# Columns of every results table (reporting/results_table.py); those of Config.columns come before "set".
RESULT_COLUMNS = (
    *("run", "arm", "model", "role", "seed", "samples", "labels", "parameters"),
    *("set", "read", "k", "n", "correct", "accuracy", "low", "high"),
)


@dataclasses.dataclass(frozen=True)
class EvalSpec:
    """An additional evaluation of a student or of a set of responses, and one more row of the report."""

    student: str = ""  # name of the student; "" with `responses`
    eval_sets: Names = ()  # question sets to evaluate on
    arm: str = ""  # row of the report; "" is this entry's name
    rationales_from: Names = ()  # sets of responses with the rationales in prompts; () is the student's
    rationale_control: RationaleControl = "own"  # change to these rationales, see Corpus
    # Use the first n rationales of every question, each in a separate prompt; with `responses`, score the first n of
    # them per question.
    n: int = 1
    few_shot: int = -1  # few-shot examples before every prompt; -1 is as in training
    combine: Literal["vote", "marginal"] = "vote"  # majority of n answers, or the largest sum of n probabilities
    # Parameters of the student: the best of its training, or those that its training starts from. The model before
    # training is prompted with the question alone, in the student's format.
    checkpoint: Literal["best", "initial"] = "best"
    responses: str = ""  # a set of responses, e.g. of a teacher, to score in place of those of a student
    read: Literal["", "text", "choices", "both"] = ""  # how answers are read; "" is as in Evaluation


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement about arms that the report tests. It holds if all of its tests confirm it; they are one family."""

    text: str = ""  # the statement in words
    # Pairs of arms, each "ARM vs OTHER", of which the first one should be better; of "ARM vs ARM", between base models,
    # that with more parameters.
    comparisons: Names = ()
    trend: Names = ()  # arms in the order in which accuracy should rise
    votes: Names = ()  # arms whose majority vote should be better than their single response
    # Labels of question sets as in the report, "TITLE.SPLIT", or "contrast consistency"; () is the first set.
    sets: Names = ()

    def __post_init__(self):
        if not self.text:
            raise FieldError("Claim", "text", "state the claim in words")
        if not (self.comparisons or self.trend or self.votes):
            raise FieldError("Claim", "comparisons", "expected what tests the claim: comparisons, a trend or votes")
        if len(self.trend) == 1:
            raise FieldError("Claim", "trend", f"expected at least two arms, found {self.trend[0]!r}")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How students are evaluated."""

    # How answers are read: from the generated text, or as the most likely of the offered choices after the generated
    # rationale. For recipes without a rationale, the choices directly follow the prompt. Responses of servers, batch
    # files and files are always read from the text.
    read: Literal["text", "choices", "both"] = "text"
    sampling: Sampling = Sampling(temperature=0.0)  # sampling for the reported accuracy
    self_consistency: Sampling = Sampling(n=0, temperature=0.7)  # also report a vote over n samples; n=0 is off
    # Faithfulness of the rationales of trained students: the choices are also compared after these changes of each
    # rationale, "truncated", "shuffled", "other" or "empty" (see Corpus.rationale_control). Needs read="choices" or
    # "both".
    interventions: Names = ()
    oracle_from: Names = ()  # also after the right rationales in these sets of responses, e.g. those of a teacher
    # Student with rationales in its prompts (recipe "infer") that predicts the answers of the others, for the
    # leakage-adjusted simulatability of their rationales; "" is off. Needs read="choices" or "both".
    simulator: str = ""
    dev_questions: int = 128  # questions per evaluation during training, alternating between dev sets; 0 is all
    limit: int = 0  # questions to keep from the start of every reported set; 0 is all
    confidence: float = 0.95  # level of confidence intervals
    # Pairs of arms that the report compares, each "ARM vs OTHER"; "ARM vs ARM" compares an arm between base models.
    # Their tests are one family, for which p-values are corrected. () is the default pairs (reporting/comparisons.py).
    comparisons: Names = ()
    claims: dict[str, Claim] = dataclasses.field(default_factory=dict)  # statements that the report tests, by name
