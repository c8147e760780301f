"""The shapes in which batches are laid out, and what they cost.

A batch of B questions has one of two layouts. Plain: a row per question, its G responses beside each other. Packed: k
questions to a row, their prompts one behind the other, and all their responses in a few rows of one width
(models/packed_masks.py). choice.py chooses among them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

SEEN = 2000  # keys whose attention costs as much as the layers around it: three to six times the width of a model


@dataclasses.dataclass(frozen=True)
class Shape:
    """One part of a batch, over all processes: prompt[rows, prompt] and inputs[rows, group, response]."""

    rows: int
    prompt: int
    group: int
    response: int
    packed: bool

    @property
    def prompts(self) -> int:
        return self.rows * self.prompt

    @property
    def responses(self) -> int:
        return self.rows * self.group * self.response


class TextLengths(NamedTuple):
    """Tokens of one part of a batch: prompts int[B], and responses int[B, G], 0 where a question has fewer."""

    prompts: np.ndarray
    responses: np.ndarray


Shapes = Mapping[str, Shape]  # of all parts of a batch
Batch = Mapping[str, TextLengths]


def cost(shapes: Shapes) -> int:
    """What the layers of a model compute for every token, and for every token that it looks at; in whole numbers, so
    that all processes choose alike."""
    return sum(s.prompts * (SEEN + s.prompt) + s.responses * (SEEN + s.prompt + s.response) for s in shapes.values())


def padding(batches: Sequence[Batch], taken: Sequence[Shapes]) -> tuple[float, float]:
    """Which part of the prompt tokens, and of the response tokens, that are computed is padding."""
    real = np.sum([[s.prompts.sum(), s.responses.sum()] for batch in batches for s in batch.values()], 0)
    computed = np.sum([[s.prompts, s.responses] for shapes in taken for s in shapes.values()], 0)
    prompts, responses = 1 - real / np.maximum(computed, 1)
    return float(prompts), float(responses)


def sides(batch: Batch) -> np.ndarray:
    """int[B, 2 * parts]: how large each question is, in prompt and in response tokens of every part."""
    return np.stack([side for s in batch.values() for side in (s.prompts, s.responses.sum(1))], 1)
