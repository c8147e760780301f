"""ResponseKeySet behaves as a set, RowLocations sorts, and both are small."""

import sys

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from scotd_jax.rationales.response_index import ResponseKeySet, RowLocation, RowLocations

KEYS = st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from([0, 1, 29, 63, 64, 4095, 4096, 10**12]))


@given(st.lists(st.tuples(st.booleans(), KEYS)))
def test_key_set_equals_an_ordinary_set(changes):
    key_set, expected = ResponseKeySet(), set()
    for add, key in changes:
        (key_set.add if add else key_set.discard)(key)
        (expected.add if add else expected.discard)(key)
        assert (key in key_set) == (key in expected)
        assert len(key_set) == len(expected)
    assert key_set == expected
    assert set(key_set) == expected
    assert key_set | {("z", 3)} == expected | {("z", 3)}


def test_thirty_samples_of_a_question_need_one_integer():
    keys = ResponseKeySet((f"q{q}", i) for q in range(1000) for i in range(30))
    assert len(keys) == 30_000
    assert sum(map(sys.getsizeof, keys._samples.values())) < 40 * 1000


@given(st.lists(KEYS, max_size=12), st.booleans())
def test_locations_are_sorted_by_question_and_sample_and_stable(keys, ordered):
    order = ["c", "a", "b"] if ordered else list(dict.fromkeys(question for question, _ in keys))
    locations = RowLocations()
    for line, key in enumerate(keys):
        locations.add(key, RowLocation(epath.Path(f"file{line % 2}"), line, 10 * line, 10))
    found = list(locations.sorted(order if ordered else None))
    assert [key for key, _ in found] == sorted(set(keys), key=lambda key: (order.index(key[0]), key[1]))
    for key, rows in found:
        assert [row.line for row in rows] == [line for line, other in enumerate(keys) if other == key]
        assert all(row == RowLocation(epath.Path(f"file{row.line % 2}"), row.line, 10 * row.line, 10) for row in rows)


def test_question_missing_in_the_order_is_reported_with_its_location():
    locations = RowLocations()
    for line, question in enumerate("aab"):
        locations.add((question, line), RowLocation(epath.Path("file"), line, 0, 1))
    with pytest.raises(KeyError) as raised:
        list(locations.sorted(["a"]))
    assert raised.value.args == (RowLocation(epath.Path("file"), 2, 0, 1), "b")
