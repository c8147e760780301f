"""Stop strings: found in every tokenization, and nowhere else."""

import functools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scotd_jax.sampling.stop_strings import START_STATE, stop_table, truncate_at_stop

LETTERS = "ab\n é"
words = st.text(LETTERS, max_size=4)


def states_after(table, tokens):
    """The initial state, then the state after each token."""
    return list(functools.reduce(lambda seen, token: [*seen, table[seen[-1], token]], tokens, [START_STATE]))


@given(
    stops=st.lists(st.text(LETTERS, min_size=1, max_size=5), max_size=3),
    vocabulary=st.lists(words, min_size=1, max_size=6),
    picks=st.lists(st.integers(0, 5), max_size=12),
)
@example(stops=["ab ", "b"], vocabulary=["a", "b"], picks=[0, 1])  # a stop string inside the beginning of another one
def test_stop_table_agrees_with_a_text_search_after_every_token(stops, vocabulary, picks):
    table = stop_table([word.encode() for word in vocabulary], stops)
    assert table.shape[1] == len(vocabulary)
    tokens = [pick % len(vocabulary) for pick in picks]
    for end, state in enumerate(states_after(table, tokens)):
        text = "".join(vocabulary[token] for token in tokens[:end])
        assert (state == len(table) - 1) == any(stop in text for stop in stops)


def test_stop_string_can_be_split_inside_a_character():
    table = stop_table([b"\xc3", b"\xa9", b"x"], ["é"])  # the two bytes of "é" are separate tokens
    match = len(table) - 1
    assert states_after(table, [0, 2, 1, 0, 1, 2])[1:] == [states_after(table, [0])[1], 0, 0, 1, match, match]


def test_empty_list_of_stop_strings_never_matches():
    table = stop_table([b"a", b""], [])
    assert table.tolist() == [[0, 0], [1, 1]]


def test_empty_stop_string_raises():
    with pytest.raises(ValueError, match="empty"):
        stop_table([b"a"], ["x", ""])


def test_truncation_ends_before_the_first_stop_string():
    assert truncate_at_stop("one two\n\nQ: three", ["Q:", "\n\n"]) == "one two"
    assert truncate_at_stop("one two", ["Q:"]) == "one two"
    assert truncate_at_stop("Q: one", ["Q:", "\n\n"]) == ""


def test_both_tokenizations_of_two_line_feeds_stop_opt(shared_data):
    """OPT encodes two line feeds as token 50140 at the end of a text and as 50118 twice before more text."""
    import json

    to_byte = {chr(code): byte for byte, code in _byte_characters().items()}
    vocabulary = json.loads((shared_data / "tokenizers/opt/gpt2-vocab.json").read_text())
    texts = [b""] * (max(vocabulary.values()) + 1)
    for token, index in vocabulary.items():
        if not token.startswith("<"):
            texts[index] = bytes(to_byte[character] for character in token)
    table = stop_table(texts, ["\n\n"])
    match = len(table) - 1
    assert states_after(table, [407, 5, 50140])[-1] == match
    assert states_after(table, [407, 5, 50118, 50118])[-1] == match
    assert match not in states_after(table, [407, 50118, 5, 50118])


def _byte_characters():
    """Code points of byte-level BPE: printable bytes represent themselves, the others are numbered from 256."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: byte for byte in printable} | {byte: 256 + i for i, byte in enumerate(others)}
