"""Sizes of a corpus in questions, responses and tokens."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from scotd_jax.corpus.encode import GroupedExample


@dataclasses.dataclass
class CorpusCounts:
    """Added up one example at a time, and one shard at a time."""

    questions: int = 0
    records: int = 0
    responses: int = 0
    responses_max: int = 0  # of a record
    prompt_tokens: int = 0
    prompt_tokens_max: int = 0
    response_tokens: int = 0
    response_tokens_max: int = 0
    grouped_tokens: int = 0  # one prompt and its N responses
    separate_tokens: int = 0  # N pairs of prompt and response

    def add(self, example: GroupedExample, new_question: bool) -> None:
        prompt, responses = len(example.prompt), [len(r) for r in example.responses]
        self.questions += new_question
        self.records += 1
        self.responses += len(responses)
        self.responses_max = max(self.responses_max, len(responses))
        self.prompt_tokens += prompt
        self.prompt_tokens_max = max(self.prompt_tokens_max, prompt)
        self.response_tokens += sum(responses)
        self.response_tokens_max = max(self.response_tokens_max, *responses)
        self.grouped_tokens += prompt + sum(responses)
        self.separate_tokens += len(responses) * prompt + sum(responses)

    @classmethod
    def total(cls, shards: Iterable[Mapping[str, int]]) -> "Counts":
        """The counts of some shards (`dataclasses.asdict`) together."""
        whole = dataclasses.asdict(cls())
        for counts in shards:
            for name in whole:
                whole[name] = max(whole[name], counts[name]) if name.endswith("max") else whole[name] + counts[name]
        return cls(**whole)

    def to_json(self) -> dict[str, Any]:
        """The counts and what follows from them; `grouping_gain` is how many times fewer tokens a student computes
        when each prompt is computed once for all its responses."""
        means = {
            "responses_mean": self.responses / self.questions,
            "prompt_tokens_mean": self.prompt_tokens / self.records,
            "response_tokens_mean": self.response_tokens / self.responses,
            "grouping_gain": self.separate_tokens / self.grouped_tokens,
        }
        return dataclasses.asdict(self) | {name: round(value, 3) for name, value in means.items()}
