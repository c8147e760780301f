"""Wording of the embedded world's problems as questions and rationales."""

import random
from collections.abc import Sequence

from scotd_jax.tasks import world_vocabulary as words
from scotd_jax.tasks.world_problems import Problem


class Wording:
    """The words drawn for one question. A contrast question shares them, so that it differs in one word only."""

    def __init__(self, rng: random.Random, options: tuple[str, str]):
        """Draws name, first day, template and the order of the two answer options."""
        self._rng = rng
        self._name = rng.choice(words.NAMES)
        self._first_day = rng.randrange(len(words.DAYS))
        self._template = rng.randrange(2)
        self.options = options if rng.random() < 0.5 else options[::-1]

    def question(self, problem: Problem) -> str:
        """Returns the text of the question."""
        events = [f"{self._day(i)} {operation or words.REST}" for i, operation in enumerate(problem.days)]
        days = " , ".join([*events, f"{self._day(len(events))} {words.STOP}"])
        a, b = self.options
        template = problem.family.questions[self._template]
        return template.format(name=self._name, start=problem.start, days=days, a=a, b=b)

    def rationale(self, problem: Problem, states: Sequence[str]) -> str:
        """Returns a rationale with one sentence per day; the sentences' templates are drawn anew at every call."""
        family, rng = problem.family, self._rng
        parts = [family.opening.format(name=self._name, start=problem.start)] if rng.random() < 0.5 else []
        for i, operation in enumerate(problem.days):
            step = rng.choice(words.STEPS).format(
                day=self._day(i),
                state=states[i],
                operation=operation or words.REST,
                verb=family.verb if operation else words.REST_VERB,
                result=states[i + 1],
            )
            parts.append(step)
        parts.append(words.ENDING.format(day=self._day(len(problem.days))))
        return " ".join(parts)

    def _day(self, i: int) -> str:
        return words.DAYS[(self._first_day + i) % len(words.DAYS)]
