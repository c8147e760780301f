"""Host-side scheduling of the sampler: which slot decodes which sample, and when a group takes its next question.

The slots of one group decode the samples of a question, and a group holds the contexts of up to W questions. A free
slot starts the next waiting sample of its group, oldest question first. A group can take another question as soon as no
sample of its questions is waiting, so usually before any of its slots is idle.
"""

import collections
import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from scotd_jax.sampling.requests import Request


@dataclasses.dataclass
class _AdmittedQuestion:
    """A question whose context a group holds: its waiting samples, and the number of running ones."""

    request: Request
    waiting: collections.deque[int]
    running: int = 0


class SlotAssignment(NamedTuple):
    """A sample to start in a slot; `context_index` is the index of its question among the contexts of the group."""

    group: int
    slot: int
    context_index: int
    request: Request
    sample_index: int


class Scheduler:
    """Assigns samples to free slots and questions to groups that need one.

    Args:
      num_groups: groups in the batch (B).
      slots_per_group: slots in each group (G).
      contexts_per_group: questions that a group can hold at a time (W).
    """

    def __init__(self, num_groups: int, slots_per_group: int, contexts_per_group: int):
        # Questions of each group by context index, oldest first.
        self._questions: list[dict[int, _AdmittedQuestion]] = [{} for _ in range(num_groups)]
        self._free: list[list[int]] = [list(range(slots_per_group)) for _ in range(num_groups)]
        self._running: dict[tuple[int, int], tuple[int, int]] = {}  # (group, slot) -> (context index, sample index)
        self._contexts_per_group = contexts_per_group

    @property
    def num_active(self) -> int:
        """Number of slots that are decoding a sample."""
        return len(self._running)

    def groups_to_refill(self) -> list[int]:
        """Groups that have no waiting sample and can hold another question, those with the most free slots first."""
        groups = [
            group
            for group, questions in enumerate(self._questions)
            if len(questions) < self._contexts_per_group
            and not any(question.waiting for question in questions.values())
        ]
        return sorted(groups, key=lambda group: -len(self._free[group]))

    def admit(self, group: int, request: Request) -> int:
        """Adds a question to a group and returns the index of its context there."""
        questions = self._questions[group]
        context_index = next(w for w in range(self._contexts_per_group) if w not in questions)
        questions[context_index] = _AdmittedQuestion(request, collections.deque(request.sample_indices))
        return context_index

    def assign(self) -> Iterator[SlotAssignment]:
        """Starts waiting samples in free slots, as many as possible."""
        for group, questions in enumerate(self._questions):
            free = self._free[group]
            for context_index, question in questions.items():
                while free and question.waiting:
                    slot, sample_index = free.pop(0), question.waiting.popleft()
                    question.running += 1
                    self._running[group, slot] = context_index, sample_index
                    yield SlotAssignment(group, slot, context_index, question.request, sample_index)

    def release(self, group: int, slot: int) -> tuple[Request, int]:
        """Frees a slot whose sample has finished, and the context of a question that has no samples left.

        Returns:
          The request and the sample index that the slot was decoding.
        """
        context_index, sample_index = self._running.pop((group, slot))
        self._free[group].append(slot)
        question = self._questions[group][context_index]
        question.running -= 1
        if not question.waiting and not question.running:
            del self._questions[group][context_index]
        return question.request, sample_index
