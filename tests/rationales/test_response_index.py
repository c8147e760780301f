"""ResponseKeySet behaves as a set, RowLocations sorts, and both are small."""

import sys

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from scotd_jax.rationales.response_index import ResponseKeySet, RowLocation, RowLocations

NAMES = st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from([0, 1, 29, 63, 64, 4095, 4096, 10**12]))


@given(st.lists(st.tuples(st.booleans(), NAMES)))
def test_key_set_equals_an_ordinary_set(changes):
    ours, theirs = ResponseKeySet(), set()
    for add, name in changes:
        (ours.add if add else ours.discard)(name)
        (theirs.add if add else theirs.discard)(name)
        assert (name in ours) == (name in theirs)
        assert len(ours) == len(theirs)
    assert ours == theirs
    assert set(ours) == theirs
    assert ours | {("z", 3)} == theirs | {("z", 3)}


def test_thirty_samples_of_a_question_need_one_integer():
    names = ResponseKeySet((f"q{q}", i) for q in range(1000) for i in range(30))
    assert len(names) == 30_000
    assert sum(map(sys.getsizeof, names._samples.values())) < 40 * 1000


@given(st.lists(NAMES, max_size=12), st.booleans())
def test_locations_are_sorted_by_question_and_sample_and_stable(names, ordered):
    order = ["c", "a", "b"] if ordered else list(dict.fromkeys(question for question, _ in names))
    places = RowLocations()
    for line, name in enumerate(names):
        places.add(name, RowLocation(epath.Path(f"file{line % 2}"), line, 10 * line, 10))
    found = list(places.sorted(order if ordered else None))
    assert [name for name, _ in found] == sorted(set(names), key=lambda name: (order.index(name[0]), name[1]))
    for name, rows in found:
        assert [row.line for row in rows] == [line for line, other in enumerate(names) if other == name]
        assert all(row == RowLocation(epath.Path(f"file{row.line % 2}"), row.line, 10 * row.line, 10) for row in rows)


def test_question_missing_in_the_order_is_reported_with_its_location():
    places = RowLocations()
    for line, question in enumerate("aab"):
        places.add((question, line), RowLocation(epath.Path("file"), line, 0, 1))
    with pytest.raises(KeyError) as raised:
        list(places.sorted(["a"]))
    assert raised.value.args == (RowLocation(epath.Path("file"), 2, 0, 1), "b")
