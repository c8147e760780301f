"""Mutations of valid documents for fuzzers: flipped bits, cuts, inserted bytes, repeated keys, other values."""

import re
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import strategies as st

VALUES = (
    *(b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"0.5", b"null", b"true", b"[]", b"{}", b'""', b'"a"'),
    *(b"2147483648", b"-9223372036854775809", b"9" * 400, b"9" * 5000),
    *(b'"\\ud800"', '"\u202e\u00b2"'.encode(), b'"\\u0000"', b'"../x"', b'"#9"', '"k1#\u00b2"'.encode()),
    *(b"[" * 10_000, b'{"a":' * 5_000, b'[{"a": [1]}]'),
)
BYTES = (b"\xff", b"\x00", b"\n", b'"', b",", b"}", b"\r\n", "\u2028".encode(), b"9" * 400)
_VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|true|false|null')
_PAIR = re.compile(rb'"[^"\\]*": ?(?:"[^"\\]*"|-?\d+(?:\.\d+)?|true|false|null)')


class Mutation(NamedTuple):
    """One change of a document. `position` and `size` are reduced to those of the document."""

    kind: str
    position: int
    size: int
    value: bytes


def _replace_value(data: bytes, at: int, mutation: Mutation) -> bytes:
    found = list(_VALUE.finditer(data))
    if not found:
        return data[:at] + mutation.value + data[at:]
    begin, end = found[mutation.position % len(found)].span()
    return data[:begin] + mutation.value + data[end:]


def _repeat_key(data: bytes, at: int, mutation: Mutation) -> bytes:
    found = list(_PAIR.finditer(data))
    if not found:
        return data[:at] * 2 + data[at:]
    pair = found[mutation.position % len(found)]
    return data[: pair.end()] + b", " + pair[0] + data[pair.end() :]


def _flip(data: bytes, at: int, mutation: Mutation) -> bytes:
    return data[:at] + bytes([data[at] ^ (1 << mutation.size % 8)]) + data[at + 1 :]


KINDS: dict[str, Callable[[bytes, int, Mutation], bytes]] = {
    "flip a bit": _flip,
    "cut": lambda data, at, mutation: data[:at],
    "remove": lambda data, at, mutation: data[:at] + data[at + mutation.size :],
    "insert": lambda data, at, mutation: data[:at] + BYTES[mutation.size % len(BYTES)] + data[at:],
    "repeat": lambda data, at, mutation: data[: at + mutation.size] + data[at:],
    "exchange": lambda data, at, mutation: data[at:] + data[:at],
    "replace a value": _replace_value,
    "repeat a key": _repeat_key,
}
# Values are replaced more often, because most other changes end in the same error: the document is broken.
_KINDS = st.sampled_from([*KINDS, *["replace a value"] * 4])
MUTATIONS = st.lists(
    st.builds(Mutation, _KINDS, st.integers(0, 2**20), st.integers(1, 40), st.sampled_from(VALUES)),
    min_size=1,
    max_size=3,
)


def mutate(document: bytes, mutations: list[Mutation]) -> bytes:
    """Returns the document after these changes."""
    for mutation in mutations:
        if document:
            document = KINDS[mutation.kind](document, mutation.position % len(document), mutation)
    return document
