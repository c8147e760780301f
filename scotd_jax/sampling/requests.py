"""What a sampler is asked, and what it gives back."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Request:
    """Samples wanted of one question: `prompt_ids` is the whole prompt, `sample_indices` the numbers of the samples.

    The first `shared` tokens of the prompt are exemplars that other questions have too. A decoder-only model computes
    them once for all of them.
    """

    question_id: str
    prompt_ids: Sequence[int]
    sample_indices: Sequence[int]
    shared: int = 0


@dataclasses.dataclass(frozen=True)
class Sample:
    """One thing that was said. Fields as in records.Response.

    `token_ids` are all `num_tokens` tokens, with the end token or those of the stop string, which `text` is without.
    """

    question_id: str
    sample_index: int
    text: str
    finish_reason: str
    logprob: float
    num_tokens: int
    token_ids: tuple[int, ...]
