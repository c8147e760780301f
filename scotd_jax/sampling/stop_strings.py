"""Stop strings at token level: a table that says, after every token, whether a stop string has been said.

A stop string may be split into tokens in several ways and may begin or end inside a token ("\\n\\n" is one token or two
in OPT's vocabulary, data.md 5.2). So the strings are matched over the bytes that tokens add to the text: an
Aho-Corasick automaton over bytes, with one step per token worked out beforehand for the whole vocabulary.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

START = 0  # the state before the first token


def stop_table(token_bytes: Sequence[bytes], stops: Sequence[str]) -> Int32[np.ndarray, "states V"]:
    """The state after each token: `state = table[state, token]`, from START. The last state means that a stop string
    has been said, and is never left.

    `token_bytes[id]` are the bytes that token `id` adds to the text (b"" for special tokens). Raises ValueError on an
    empty stop string.
    """
    steps = _byte_automaton([stop.encode("utf-8") for stop in stops])
    lengths = np.array([len(text) for text in token_bytes], np.int64)
    letters = np.frombuffer(b"".join(token_bytes), np.uint8)
    begins = np.cumsum(lengths) - lengths
    table = np.repeat(np.arange(len(steps), dtype=np.int32)[:, None], len(token_bytes), axis=1)
    for position in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > position)
        table[:, longer] = steps[table[:, longer], letters[begins[longer] + position]]
    return table


def _byte_automaton(stops: Sequence[bytes]) -> Int32[np.ndarray, "states 256"]:
    """The automaton over single bytes. A state is the longest end of the text that a stop string begins with."""
    if not all(stops):
        raise ValueError("a stop string is empty: it would end every response before its first token")
    states = {b"": START}
    for stop in stops:
        for end in range(1, len(stop)):
            states.setdefault(stop[:end], len(states))
    match = len(states)
    table = np.full((match + 1, 256), match, np.int32)
    for prefix, state in states.items():
        for byte in range(256):
            ends = [(prefix + bytes([byte]))[begin:] for begin in range(len(prefix) + 2)]
            if not any(end in stops for end in ends):
                table[state, byte] = next(states[end] for end in ends if end in states)
    return table


def cut(text: str, stops: Sequence[str]) -> str:
    """`text` up to the stop string that begins first; all of it where none occurs."""
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return text[: min(found)] if found else text
