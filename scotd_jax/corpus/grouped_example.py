"""Grouped examples: one question with all its responses as token ids, stored as a tf.train.Example."""

import dataclasses
from collections.abc import Collection
from typing import Any

from scotd_jax.corpus import tf_example
from scotd_jax.errors import InputError

FEATURES = {
    "question_id": "bytes, 1: id of the question (UTF-8)",
    "task": "bytes, 1: name of the task (UTF-8)",
    "prompt": "int64, P: token ids of the whole prompt",
    "responses": "int64, sum of response_lengths: token ids of all responses, one after the other, end tokens included",
    "response_lengths": "int64, N: number of tokens of each response, at least 1",
    "sample_index": "int64, N: which sample of the question each response was",
}


@dataclasses.dataclass(frozen=True)
class GroupedExample:
    """One question and the N >= 1 responses that a student is trained on.

    Attributes:
      question_id: id of the question.
      task: name of its task.
      prompt: token ids of the whole prompt.
      responses: token ids of each response, its end token or stop string included.
      sample_index: sample index of each response.

    Raises:
      ValueError: if there is no response, an empty one, or not one sample index per response.
    """

    question_id: str
    task: str
    prompt: list[int]
    responses: list[list[int]]
    sample_index: list[int]

    def __post_init__(self) -> None:
        if not self.responses or not all(self.responses):
            raise ValueError(f"question {self.question_id!r}: a grouped example needs responses, none of them empty")
        if len(self.responses) != len(self.sample_index):
            raise ValueError(
                f"question {self.question_id!r}: {len(self.responses)} responses, {len(self.sample_index)} indices"
            )

    def select_samples(self, samples: Collection[int]) -> "GroupedExample | None":
        """Returns the example reduced to the responses whose sample index is in `samples`; None if there are none."""
        selected = [i for i, sample in enumerate(self.sample_index) if sample in samples]
        if not selected:
            return None
        if len(selected) == len(self.responses):
            return self
        responses, indices = [self.responses[i] for i in selected], [self.sample_index[i] for i in selected]
        return dataclasses.replace(self, responses=responses, sample_index=indices)

    def to_bytes(self) -> bytes:
        """Serializes to a tf.train.Example with the features of `FEATURES`."""
        return tf_example.encode(
            {
                "question_id": [self.question_id.encode()],
                "task": [self.task.encode()],
                "prompt": self.prompt,
                "responses": [token for response in self.responses for token in response],
                "response_lengths": [len(response) for response in self.responses],
                "sample_index": self.sample_index,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "GroupedExample":
        """Parses the output of `to_bytes`.

        Args:
          data: a serialized tf.train.Example.
          where: file and record, the prefix of error messages.

        Raises:
          InputError: if features are missing or disagree.
        """
        features: dict[str, Any] = tf_example.decode(data, where)
        if missing := [name for name in FEATURES if name not in features]:
            raise InputError(f"{where}: feature {missing[0]!r} is missing; a corpus has {', '.join(FEATURES)}")
        flat, lengths = features["responses"], features["response_lengths"]
        if sum(lengths) != len(flat):
            raise InputError(f"{where}: response_lengths add up to {sum(lengths)}, but there are {len(flat)} tokens")
        responses, begin = [], 0
        for length in lengths:
            responses.append(flat[begin : begin + length])
            begin += length
        try:
            (question_id,), (task,) = features["question_id"], features["task"]
            return cls(question_id.decode(), task.decode(), features["prompt"], responses, features["sample_index"])
        except (ValueError, AttributeError) as error:
            raise InputError(f"{where}: not a grouped example of this package ({error})") from None
