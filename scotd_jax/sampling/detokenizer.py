"""Decodes the token ids of a response to its text."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from scotd_jax.sampling.stop_strings import truncate_at_stop


@runtime_checkable
class SamplerTokenizer(Protocol):
    """The part of `scotd_jax.tokenization.Tokenizer` that the sampler uses.

    Attributes:
      eos_ids: token ids that end a response.
      size: number of token ids.
    """

    eos_ids: tuple[int, ...]
    size: int

    def token_bytes(self) -> list[bytes]:
        """Bytes that each token adds to the text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a token sequence."""


class Detokenizer:
    """Decodes responses up to their end token or stop string.

    Args:
      tokenizer: tokenizer of the model.
      stops: stop strings.
    """

    def __init__(self, tokenizer: SamplerTokenizer, stops: Sequence[str]):
        self._tokenizer, self._stops = tokenizer, stops
        self._token_bytes = tokenizer.token_bytes()

    def text(self, ids: Sequence[int]) -> str:
        """Returns the text of a response without its end token, cut before the first stop string.

        A tokenizer may normalize whitespace when it decodes, so that the bytes of the tokens contain a stop string but
        the decoded text does not. The text then ends with the last token that lies before the stop string.
        """
        if ids and ids[-1] in self._tokenizer.eos_ids:
            ids = ids[:-1]
        text = self._tokenizer.decode(ids)
        truncated = truncate_at_stop(text, self._stops)
        if len(truncated) < len(text):
            return truncated
        token_bytes = [self._token_bytes[i] for i in ids]
        text_bytes = b"".join(token_bytes)
        stop_offsets = [text_bytes.find(stop.encode("utf-8")) for stop in self._stops]
        found = [offset for offset in stop_offsets if offset >= 0]
        if not found:
            return text
        token_ends = np.cumsum([len(part) for part in token_bytes])
        return self._tokenizer.decode(ids[: int(np.searchsorted(token_ends, min(found), side="right"))])
