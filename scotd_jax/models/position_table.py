"""Checks that sequences fit into a model's table of positions."""

from typing import Any

from scotd_jax.errors import InputError


def check_positions(config: Any, tokens: int, sequence: str, advice: str) -> None:
    """Checks that a sequence fits: all positions past the end of the table would use its last row.

    Args:
      config: the model's architecture. Models without `max_position_embeddings` take any length.
      tokens: length of the sequence.
      sequence: its description in the message, e.g. "question 'q': 900 prompt tokens and max_new_tokens 256".
      advice: what to change, for the message.

    Raises:
      InputError: if the sequence is longer than the table.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and tokens > limit:
        raise InputError(f"{sequence} exceed the model's {limit} positions; {advice}")
