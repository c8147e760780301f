"""Input and output records of the sampler."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Request:
    """Samples to generate for one question.

    Attributes:
      question_id: id of the question; with the sample index it determines the noise of a sample.
      prompt_ids: token ids of the whole prompt.
      sample_indices: indices of the samples to generate.
      shared_length: number of prompt tokens of the few-shot examples at the start of the prompt. A decoder-only model
        prefills them once for all questions that share them.
    """

    question_id: str
    prompt_ids: Sequence[int]
    sample_indices: Sequence[int]
    shared_length: int = 0


@dataclasses.dataclass(frozen=True)
class Sample:
    """One generated response; its fields are named as in `records.Response`.

    Attributes:
      question_id: id of the question.
      sample_index: index of the sample among those of its question.
      text: the response without its end token or stop string.
      finish_reason: "stop" after an end token or stop string, "length" at `max_new_tokens`.
      logprob: natural log-probability of all tokens under the untempered model.
      num_tokens: number of generated tokens.
      token_ids: all generated tokens, including the end token or those of the stop string.
    """

    question_id: str
    sample_index: int
    text: str
    finish_reason: str
    logprob: float
    num_tokens: int
    token_ids: tuple[int, ...]
