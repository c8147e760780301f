"""The array layout [questions x responses].

A batch holds B prompts of P tokens once, as `[B, P]`, and the G responses of R tokens to each prompt as `[B, G, R]`.
Training and sampling split a prompt the same way: into a *prefix*, which is computed once per question, and a *start
token*, which is the first input of every response. A decoder-only model starts from the last prompt token; an
encoder-decoder encodes the whole prompt and starts from its decoder start token.
"""

import itertools
from collections.abc import Sequence

import numpy as np


def split_prompt(prompt_ids: Sequence[int], start_token: int | None) -> tuple[list[int], int]:
    """Splits a prompt into prefix and start token.

    Args:
      prompt_ids: token ids of the whole prompt.
      start_token: decoder start token, or None for a decoder-only model.

    Returns:
      The token ids of the prefix, and the start token.

    Raises:
      ValueError: if the prompt of a decoder-only model is empty.
    """
    if start_token is not None:
        return list(prompt_ids), start_token
    if not len(prompt_ids):
        raise ValueError("a decoder-only prompt needs at least one token to start from")
    return list(prompt_ids[:-1]), prompt_ids[-1]


def shared_length(*sequences: Sequence[int]) -> int:
    """Number of leading tokens that all sequences share."""
    equal = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*sequences, strict=False))
    return sum(1 for _ in equal)


def round_up(length: int, multiple: int) -> int:
    """Smallest positive multiple of `multiple` that is at least `length`."""
    return max(1, -(-length // multiple)) * multiple


def pad_rows(rows: Sequence[Sequence[int]], width: int, pad: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Right-pads rows of token ids.

    Args:
      rows: B sequences of token ids.
      width: length of the padded rows.
      pad: id to pad with.

    Returns:
      Tokens int32[B, width] and mask bool[B, width], True on real tokens.

    Raises:
      ValueError: if a row is longer than `width`.
    """
    tokens = np.full((len(rows), width), pad, np.int32)
    mask = np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        if len(row) > width:
            raise ValueError(f"row {i} has {len(row)} tokens, more than the width {width}")
        tokens[i, : len(row)] = row
        mask[i, : len(row)] = True
    return tokens, mask
