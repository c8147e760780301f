"""Counts of questions, responses and tokens in a corpus."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from scotd_jax.corpus.grouped_example import GroupedExample


@dataclasses.dataclass
class CorpusCounts:
    """Counts of a shard, added up example by example, or of a part, added up shard by shard."""

    questions: int = 0
    records: int = 0
    responses: int = 0
    responses_max: int = 0  # in one record
    prompt_tokens: int = 0
    prompt_tokens_max: int = 0
    response_tokens: int = 0
    response_tokens_max: int = 0
    grouped_tokens: int = 0  # if every prompt is computed once for its N responses
    separate_tokens: int = 0  # if every response is computed as a separate pair with its prompt

    def add(self, example: GroupedExample, new_question: bool) -> None:
        """Adds one record; `new_question` is False for further records of the last question."""
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
    def merge(cls, shards: Iterable[Mapping[str, int]]) -> "CorpusCounts":
        """Adds up the counts of several shards, each a dict of the fields of this class."""
        merged = dataclasses.asdict(cls())
        for counts in shards:
            for name in merged:
                pair = merged[name], counts[name]
                merged[name] = max(pair) if name.endswith("max") else sum(pair)
        return cls(**merged)

    def to_json(self) -> dict[str, Any]:
        """Returns the counts and their means as JSON data.

        `grouping_gain` is the factor by which computing each prompt once for all its responses reduces the tokens.
        """
        means = {
            "responses_mean": self.responses / self.questions,
            "prompt_tokens_mean": self.prompt_tokens / self.records,
            "response_tokens_mean": self.response_tokens / self.responses,
            "grouping_gain": self.separate_tokens / self.grouped_tokens,
        }
        return dataclasses.asdict(self) | {name: round(value, 3) for name, value in means.items()}
