"""The one layout on arrays: [questions x responses].

A batch holds `prompt[B, P]` once and `[B, G, R]` responses that share it. What every model needs to begin is the
same pair, in training and in sampling alike: a *prefix*, which is computed once per question, and one *start token*,
which is the first input of every response. A decoder-only model starts from the last token of its prompt; an
encoder-decoder reads the whole prompt and starts from a token of its own.
"""

from collections.abc import Sequence

import numpy as np


def split_prompt(prompt_ids: Sequence[int], start_token: int | None) -> tuple[list[int], int]:
    """Prefix and start token of one prompt. `start_token` None means decoder-only: the prompt's last token starts."""
    if start_token is not None:
        return list(prompt_ids), start_token
    if not len(prompt_ids):
        raise ValueError("a decoder-only prompt needs at least one token to start from")
    return list(prompt_ids[:-1]), int(prompt_ids[-1])


def round_up(length: int, multiple: int) -> int:
    """Smallest multiple of `multiple` that is at least `length` and at least `multiple`."""
    return max(1, -(-length // multiple)) * multiple


def pad_rows(rows: Sequence[Sequence[int]], width: int, pad: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Right-padded int32[B, width] and bool[B, width] mask of the real tokens. Raises ValueError on a longer row."""
    tokens = np.full((len(rows), width), pad, np.int32)
    mask = np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        if len(row) > width:
            raise ValueError(f"row {i} has {len(row)} tokens, more than the width {width}")
        tokens[i, : len(row)] = row
        mask[i, : len(row)] = True
    return tokens, mask
