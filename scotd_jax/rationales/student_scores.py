"""Scores of responses under a student: how well they suit it as training targets.

Selections compare them (selections.py). The score job computes them with the checkpoint of a student that has been
warmed up, for example on one response per question.

    likelihood          log-probability per token of the training target
    rank_surprisal      rank-surprisal ratio (arXiv 2601.14249, with its authors' code): the sum of the ranks of the
                        target's tokens, each at most `MAX_RANK`, divided by the sum of their negative log-probabilities
    gold_logprob        log-probability of the gold answer after the rationale: rationale difficulty (arXiv 2509.23574)
    local_likelihood    log-probability per token of the sentences of the rationale, each after the question and the
                        sentence before it alone: local naturalness (arXiv 2510.03988)

Of the last two papers we know the abstracts. Difficulty compares the probability of the answer with and without the
rationale; the latter is equal for all responses to a question, so it does not affect a selection. That a step is a
sentence, that the window is one sentence, and that the question stays in front of it, are our choices.
"""

import dataclasses
import re

import numpy as np

MAX_RANK = 100  # as in the authors' code

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclasses.dataclass(frozen=True)
class StudentScores:
    """The scores of one response, identified by `(question_id, sample_index)`. Log-probabilities are natural.

    Attributes:
      question_id: id of the question.
      sample_index: index of the sample in its set of responses.
      likelihood: mean log-probability per token of the training target.
      rank_surprisal: rank-surprisal ratio of the training target.
      gold_logprob: log-probability of the gold answer after the rationale; None without a gold answer.
      local_likelihood: mean log-probability per token of each sentence after the one before.
    """

    question_id: str
    sample_index: int
    likelihood: float
    rank_surprisal: float
    gold_logprob: float | None
    local_likelihood: float

    @property
    def key(self) -> tuple[str, int]:
        """The identity of the response, `(question_id, sample_index)`."""
        return self.question_id, self.sample_index


def rank_surprisal_ratio(log_p: np.ndarray, rank: np.ndarray) -> float:
    """Returns the rank-surprisal ratio of a response; lower is better.

    Args:
      log_p: log-probability of each token in nats, float[T].
      rank: rank of each token from 1, int[T].
    """
    surprisal = -float(np.sum(log_p, dtype=np.float64))
    return float(np.minimum(rank, MAX_RANK).sum()) / max(surprisal, 1e-12)


def sentences(rationale: str) -> list[str]:
    """Returns the sentences of a rationale: it is split after full stops, question and exclamation marks, and lines."""
    return [sentence for sentence in _SENTENCE_END.split(rationale.strip()) if sentence]
