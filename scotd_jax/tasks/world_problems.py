"""Problems of the embedded world: the facts of a seed, and chains of look-ups through them before they are worded."""

import dataclasses
import hashlib
import random

from scotd_jax.tasks import world_vocabulary as words
from scotd_jax.tasks.world_vocabulary import QuestionFamily

Facts = dict[str, dict[str, dict[str, str]]]  # family name -> operation -> state -> resulting state


@dataclasses.dataclass(frozen=True)
class Problem:
    """A question before it is worded: a start state, and per day an operation (None: a day of rest)."""

    family: QuestionFamily
    start: str
    days: tuple[str | None, ...]

    @property
    def chain(self) -> tuple[str, ...]:
        """Family, start and operations without days of rest: they determine the answer."""
        return (self.family.name, self.start, *(o for o in self.days if o is not None))

    def states(self, facts: Facts) -> list[str]:
        """Returns the state on every day, from the start to the answer: one more than there are days."""
        states = [self.start]
        for operation in self.days:
            states.append(states[-1] if operation is None else facts[self.family.name][operation][states[-1]])
        return states


def draw_facts(seed: int) -> Facts:
    """Draws the facts of a world.

    Every operation permutes the states of its family without fixed points, and no two operations of a family map a
    state to the same result.
    """
    return {f.name: _family_facts(f, random.Random(f"{seed} facts {f.name}")) for f in words.FAMILIES}


def draw_problem(family: QuestionFamily, steps: int, max_days: int, rng: random.Random) -> Problem:
    """Draws a problem with `steps` operations on `steps` to `max_days` days."""
    total = rng.randint(steps, max_days)
    days: list[str | None] = [None] * total
    for day in rng.sample(range(total), steps):
        days[day] = rng.choices(family.operations, words.FREQUENCIES)[0]
    return Problem(family, rng.choice(family.states), tuple(days))


def edits(problem: Problem) -> list[Problem]:
    """Returns all problems that differ in one operation.

    Every edit changes the answer: two operations never map one state to the same result, and no operation maps two
    states to one.
    """
    return [
        Problem(problem.family, problem.start, (*problem.days[:i], other, *problem.days[i + 1 :]))
        for i, operation in enumerate(problem.days)
        if operation is not None
        for other in problem.family.operations
        if other != operation
    ]


def is_held_out(problem: Problem, seed: int, share: float) -> bool:
    """Returns whether a hash selects the problem's chain as one of the held-out `share` of all chains."""
    digest = hashlib.blake2b(f"{seed} {' '.join(problem.chain)}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def _family_facts(family: QuestionFamily, rng: random.Random) -> dict[str, dict[str, str]]:
    facts: dict[str, dict[str, str]] = {}
    for operation in family.operations:
        while operation not in facts:
            results = rng.sample(family.states, len(family.states))
            # Redraw if a state maps to itself, or to its result under an earlier operation.
            excluded = [{state, *(known[state] for known in facts.values())} for state in family.states]
            if all(result not in states for result, states in zip(results, excluded, strict=True)):
                facts[operation] = dict(zip(family.states, results, strict=True))
    return facts
