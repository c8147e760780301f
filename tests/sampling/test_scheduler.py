"""Bookkeeping of rows: every sample begins once, on a row that is free, in a lane that holds its question."""

import collections

from hypothesis import given, settings
from hypothesis import strategies as st

from scotd_jax.sampling.requests import Request
from scotd_jax.sampling.scheduler import Lanes


@settings(max_examples=60, deadline=None)
@given(
    lanes=st.integers(1, 3),
    rows=st.integers(1, 4),
    places=st.integers(1, 3),
    counts=st.lists(st.integers(1, 7), max_size=12),
    rng=st.randoms(use_true_random=False),
)
def test_every_sample_is_said_once_by_a_row_of_a_lane_that_holds_its_question(lanes, rows, places, counts, rng):
    book = Lanes(lanes, rows, places)
    pending = collections.deque(Request(f"q{i}", [1], range(n)) for i, n in enumerate(counts))
    held: dict[tuple[int, int], str] = {}
    under_way: dict[tuple[int, int], tuple[str, int]] = {}
    said: list[tuple[str, int]] = []
    while len(said) < sum(counts):
        for lane in book.wanting():
            if pending:
                request = pending.popleft()
                held[lane, book.take(lane, request)] = request.question_id
                assert sum(key[0] == lane for key in held) <= places
        for lane, row, place, request, index in book.begin():
            assert (lane, row) not in under_way
            assert held[lane, place] == request.question_id
            under_way[lane, row] = request.question_id, index
        assert book.busy == len(under_way) > 0
        waits = {lane for lane in range(lanes) if lane not in book.wanting()}
        idle = {lane for lane in range(lanes) if sum(at[0] == lane for at in under_way) < rows}
        full = {lane for lane in range(lanes) if sum(key[0] == lane for key in held) == places}
        assert not (idle & waits) - full, "a lane with idle rows waits although it could take a question"
        for at in rng.sample(sorted(under_way), rng.randint(1, len(under_way))):
            request, index = book.end(*at)
            assert (request.question_id, index) == under_way.pop(at)
            said.append((request.question_id, index))
            unsaid = set(range(len(request.sample_indices))) - {i for q, i in said if q == request.question_id}
            if not unsaid:
                held = {key: question for key, question in held.items() if question != request.question_id}
    assert sorted(said) == sorted((f"q{i}", k) for i, n in enumerate(counts) for k in range(n))


def test_lanes_with_most_free_rows_are_served_first():
    book = Lanes(2, 3, 2)
    assert book.wanting() == [0, 1]
    book.take(0, Request("a", [1], (0, 1, 2)))
    assert book.wanting() == [1]
    assert len(list(book.begin())) == 3
    assert book.wanting() == [1, 0]  # a second question may wait in lane 0 until its rows are free
    assert book.take(0, Request("b", [1], (7,))) == 1
    assert list(book.begin()) == []
    book.end(0, 2)
    ((lane, row, place, request, index),) = book.begin()
    assert (lane, row, place, request.question_id, index) == (0, 2, 1, "b", 7)
