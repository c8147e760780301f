"""Stop strings at token level: a transition table that detects a stop string after every token.

A stop string can be split into tokens in several ways and can begin or end inside a token: in OPT's vocabulary, two
line feeds are one token or two. The strings are therefore matched over the bytes that tokens add to the text, by an
Aho-Corasick automaton (Aho and Corasick 1975) whose transitions are precomputed for every token of the vocabulary.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

START_STATE = 0  # the state before the first token


def stop_table(token_bytes: Sequence[bytes], stops: Sequence[str]) -> Int32[np.ndarray, "states V"]:
    """Builds the transition table: `state = table[state, token]`, starting from START_STATE.

    Args:
      token_bytes: the bytes that each token id adds to the text, b"" for special tokens.
      stops: stop strings.

    Returns:
      The table. Its last state, which no token leaves, means that the text contains a stop string.

    Raises:
      ValueError: if a stop string is empty.
    """
    transitions = _byte_automaton([stop.encode("utf-8") for stop in stops])
    lengths = np.array([len(text) for text in token_bytes], np.int64)
    all_bytes = np.frombuffer(b"".join(token_bytes), np.uint8)
    offsets = np.cumsum(lengths) - lengths
    table = np.repeat(np.arange(len(transitions), dtype=np.int32)[:, None], len(token_bytes), axis=1)
    for position in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > position)
        table[:, longer] = transitions[table[:, longer], all_bytes[offsets[longer] + position]]
    return table


def _byte_automaton(stops: Sequence[bytes]) -> Int32[np.ndarray, "states 256"]:
    """The transition table over single bytes.

    A state stands for the longest suffix of the text that is the beginning of a stop string; the last state is a match.
    """
    if not all(stops):
        raise ValueError("a stop string is empty: it would end every response before its first token")
    states = {b"": START_STATE}
    for stop in stops:
        for end in range(1, len(stop)):
            states.setdefault(stop[:end], len(states))
    match_state = len(states)
    table = np.full((match_state + 1, 256), match_state, np.int32)
    for prefix, state in states.items():
        for byte in range(256):
            suffixes = [(prefix + bytes([byte]))[begin:] for begin in range(len(prefix) + 2)]
            if not any(suffix in stops for suffix in suffixes):
                table[state, byte] = next(states[suffix] for suffix in suffixes if suffix in states)
    return table


def truncate_at_stop(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first stop string, or all of it if it contains none."""
    positions = [position for position in (text.find(stop) for stop in stops) if position >= 0]
    return text[: min(positions)] if positions else text
