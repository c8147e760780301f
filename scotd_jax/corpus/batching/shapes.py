"""Array shapes of a batch, their compute cost, and their share of padding.

A batch of B questions has one of two layouts. Plain: one question per row, its G responses side by side. Packed: k
questions per row, their prompts one after another, and all their responses in a few rows of one width
(models/packed_masks.py). shape_selection.py selects the shapes for a corpus.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

# Number of keys at which a token's attention costs as much as the rest of the layer. A layer of width D with an MLP of
# 4 D takes 24 D^2 FLOPs per token and 4 D per key, hence 6 D keys, and 3 D with T5's smaller MLP: 1,500 to 3,000 for
# D = 512.
# A constant of the package rather than of the model, so that all students of a corpus get the same batches; 1,000 or
# 4,000 instead changed the cost of selected shapes by -4 to +7 % (see shape_selection.py for the corpora).
ATTENTION_BREAK_EVEN = 2000


@dataclasses.dataclass(frozen=True)
class Shape:
    """Shape of one part of a batch over all processes: prompt[rows, prompt], inputs[rows, group, response].

    Attributes:
      rows: number of rows.
      prompt: tokens of the prompts in a row.
      group: response rows per row; each holds one response, or several if packed.
      response: tokens of a response row.
      packed: whether a row may hold several questions and a response row several responses.
    """

    rows: int
    prompt: int
    group: int
    response: int
    packed: bool

    @property
    def prompt_tokens(self) -> int:
        return self.rows * self.prompt

    @property
    def response_tokens(self) -> int:
        return self.rows * self.group * self.response


class TextLengths(NamedTuple):
    """Token counts of one part of a batch: prompts int[B], responses int[B, G] (0 where a question has fewer)."""

    prompts: np.ndarray
    responses: np.ndarray


BatchShapes = Mapping[str, Shape]  # part of the corpus -> its shape in a batch
BatchLengths = Mapping[str, TextLengths]  # part of the corpus -> its lengths in a batch


def cost(shapes: BatchShapes) -> int:
    """Returns the relative compute of a batch, from its tokens and the keys that each token attends to.

    Costs are integers, so that all processes select the same shapes.
    """
    return sum(
        s.prompt_tokens * (ATTENTION_BREAK_EVEN + s.prompt)
        + s.response_tokens * (ATTENTION_BREAK_EVEN + s.prompt + s.response)
        for s in shapes.values()
    )


def padding(batches: Sequence[BatchLengths], shapes: Sequence[BatchShapes]) -> tuple[float, float]:
    """Returns the share of padding among the prompt tokens and among the response tokens that are computed.

    Args:
      batches: text lengths of each batch.
      shapes: the shapes of the same batches.
    """
    real = np.sum([[s.prompts.sum(), s.responses.sum()] for batch in batches for s in batch.values()], 0)
    computed = np.sum([[s.prompt_tokens, s.response_tokens] for batch in shapes for s in batch.values()], 0)
    prompts, responses = 1 - real / np.maximum(computed, 1)
    return float(prompts), float(responses)


def question_lengths(batch: BatchLengths) -> np.ndarray:
    """Returns int[B, 2 * parts]: the prompt tokens and the response tokens of each question in every part."""
    return np.stack([tokens for s in batch.values() for tokens in (s.prompts, s.responses.sum(1))], 1)
