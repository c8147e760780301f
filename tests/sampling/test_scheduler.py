"""Scheduler: every sample starts once, in a free slot of a group that holds the context of its question."""

import collections

from hypothesis import given, settings
from hypothesis import strategies as st

from scotd_jax.sampling.requests import Request
from scotd_jax.sampling.scheduler import Scheduler


@settings(max_examples=60)
@given(
    num_groups=st.integers(1, 3),
    slots_per_group=st.integers(1, 4),
    contexts_per_group=st.integers(1, 3),
    counts=st.lists(st.integers(1, 7), max_size=12),
    rng=st.randoms(use_true_random=False),
)
def test_every_sample_runs_once_in_a_group_that_holds_its_question(
    num_groups, slots_per_group, contexts_per_group, counts, rng
):
    scheduler = Scheduler(num_groups, slots_per_group, contexts_per_group)
    pending = collections.deque(Request(f"q{i}", [1], range(n)) for i, n in enumerate(counts))
    contexts: dict[tuple[int, int], str] = {}  # (group, context index): question
    running: dict[tuple[int, int], tuple[str, int]] = {}  # (group, slot): (question, sample index)
    finished: list[tuple[str, int]] = []  # (question, sample index)
    while len(finished) < sum(counts):
        for group in scheduler.groups_to_refill():
            if pending:
                request = pending.popleft()
                contexts[group, scheduler.admit(group, request)] = request.question_id
                assert sum(key[0] == group for key in contexts) <= contexts_per_group
        for group, slot, context_index, request, sample_index in scheduler.assign():
            assert (group, slot) not in running
            assert contexts[group, context_index] == request.question_id
            running[group, slot] = request.question_id, sample_index
        assert scheduler.num_active == len(running) > 0
        not_refillable = {group for group in range(num_groups) if group not in scheduler.groups_to_refill()}
        idle = {group for group in range(num_groups) if sum(key[0] == group for key in running) < slots_per_group}
        full = {group for group in range(num_groups) if sum(key[0] == group for key in contexts) == contexts_per_group}
        assert not (idle & not_refillable) - full, (
            "a group with idle slots is not refilled although it can hold a question"
        )
        for slot_key in rng.sample(sorted(running), rng.randint(1, len(running))):
            request, sample_index = scheduler.release(*slot_key)
            assert (request.question_id, sample_index) == running.pop(slot_key)
            finished.append((request.question_id, sample_index))
            remaining = set(range(len(request.sample_indices))) - {i for q, i in finished if q == request.question_id}
            if not remaining:
                contexts = {key: question for key, question in contexts.items() if question != request.question_id}
    assert sorted(finished) == sorted((f"q{i}", k) for i, n in enumerate(counts) for k in range(n))


def test_groups_with_most_free_slots_are_refilled_first():
    scheduler = Scheduler(num_groups=2, slots_per_group=3, contexts_per_group=2)
    assert scheduler.groups_to_refill() == [0, 1]
    scheduler.admit(0, Request("a", [1], (0, 1, 2)))
    assert scheduler.groups_to_refill() == [1]
    assert len(list(scheduler.assign())) == 3
    assert scheduler.groups_to_refill() == [1, 0]  # group 0 has no free slot, but room for a second question
    assert scheduler.admit(0, Request("b", [1], (7,))) == 1
    assert list(scheduler.assign()) == []
    scheduler.release(0, 2)
    ((group, slot, context_index, request, sample_index),) = scheduler.assign()
    assert (group, slot, context_index, request.question_id, sample_index) == (0, 2, 1, "b", 7)
