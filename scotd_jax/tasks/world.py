"""The embedded world: readable multiple-choice questions whose answers are chains of look-ups, generated from a seed.

No network and no pretrained weights are needed to see on it what the papers claim, since the world holds

* questions in three families that share their kinds of step, with gold rationales in varied wording (`gold`, from
  which a teacher learns) and plain statements of the facts (`statements`, from which the students' base learns);
* a natural spurious cue: in `train`, `dev` and `test` the right option is of a certain kind three times out of four,
  while the wrong one is of either kind; no step of the reasoning knows the kinds;
* `contrast`: every test question with one step changed so that the other option becomes right (same `group`);
* `unseen`: pairs of family and number of steps that no student trains on; `longer`: more steps than anyone trains on.
  Both are free of the cue.

A quarter of all chains (family, start, operations) is held out: `dev`, `test`, `contrast` and `unseen` draw from it
and no training split does, so these questions are new as reasoning, not only as text. Days of rest make all numbers of
steps come in the same lengths of text.
"""

import dataclasses
import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scotd_jax import config
from scotd_jax.errors import InputError
from scotd_jax.records import Question, Response
from scotd_jax.tasks import world_vocabulary as words
from scotd_jax.tasks.base import SplitTask, require_unique
from scotd_jax.tasks.prompt_formats import get_prompt_format
from scotd_jax.tasks.world_vocabulary import QuestionFamily


@dataclasses.dataclass(frozen=True)
class WorldOptions:
    """What may be set of the world; `config.Task.options` holds these names."""

    train: int = 600  # questions of each split
    dev: int = 256
    test: int = 256  # and as many contrast questions
    unseen: int = 256
    longer: int = 256
    gold: int = 5000
    statements: int = 2000  # texts of several facts each
    facts: int = 8  # in one text of statements
    days: int = 5  # most days of a question, the day of the stop not counted
    steps: tuple[int, ...] = (2, 3)  # operations of a question
    longer_steps: tuple[int, ...] = (4, 5)
    unseen_pairs: tuple[str, ...] = ("town 3", "paint 2")  # family and number of steps
    cue: float = 0.75  # how often the right option is of the favoured kind
    held_out: float = 0.25  # share of the chains that no training split holds


@dataclasses.dataclass(frozen=True)
class Walk:
    """One question before it is worded: a start, and per day an operation (None: rest)."""

    family: QuestionFamily
    start: str
    days: tuple[str | None, ...]

    @property
    def chain(self) -> tuple[str, ...]:
        """What decides the answer: family, start and operations, rests left out."""
        return (self.family.name, self.start, *(o for o in self.days if o is not None))


def world(name: str, task: config.Task, seed: int) -> "World":
    """The task. `seed` decides the facts and the questions. Raises InputError on an option that it does not know."""
    known = {f.name: f for f in dataclasses.fields(WorldOptions)}
    for key in task.options:
        if key not in known:
            raise InputError(
                f"config.tasks.{name}.options.{key}: the world has no such option; it has {', '.join(known)}"
            )
    values = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in task.options.items()}
    return World(name, WorldOptions(**values), seed, task.format or "plain", task.limit)


class World(SplitTask):
    """The world as a task, generated as a whole when it is made (about a second)."""

    def __init__(
        self, name: str, options: WorldOptions = WorldOptions(), seed: int = 0, style: str = "plain", limit: int = 0
    ):
        self.options = options
        self._name, self._seed = name, seed
        self.results = {f.name: _facts(f, random.Random(f"{seed} facts {f.name}")) for f in words.FAMILIES}
        self._texts: set[str] = set()
        self._splits: dict[str, tuple[list[Question], list[Response]]] = {}
        self._generate()
        check_no_overlap({split: pair[0] for split, pair in self._splits.items()})
        loaders = {split: (lambda pair=pair: pair) for split, pair in self._splits.items()}
        super().__init__(name, get_prompt_format(style), loaders, limit)

    def texts(self) -> Iterator[str]:
        """Every word of the world, then all prompts and targets: the vocabulary does not depend on the counts."""
        for f in words.FAMILIES:
            yield " ".join((*f.states, *f.operations, f.verb, *f.questions, f.opening))
        yield " ".join((*words.DAYS, *words.NAMES, *words.STEPS, words.REST, words.REST_VERB, words.ENDING, words.FACT))
        yield from super().texts()

    # -- splits ------------------------------------------------------------------------------------------------------

    def _generate(self) -> None:
        o = self.options
        pairs = [(f, n) for f in words.FAMILIES for n in o.steps]
        unseen = [p for p in pairs if f"{p[0].name} {p[1]}" in o.unseen_pairs]
        seen = [p for p in pairs if p not in unseen]
        longer = [(f, n) for f in words.FAMILIES for n in o.longer_steps]
        self._split("train", o.train, seen, held=False, cue=o.cue)
        self._split("dev", o.dev, seen, held=True, cue=o.cue)
        self._split("test", o.test, seen, held=True, cue=o.cue, contrast=True)
        self._split("unseen", o.unseen, unseen, held=True, cue=0.5)
        self._split("longer", o.longer, longer, held=None, cue=0.5)
        self._split("gold", o.gold, pairs, held=False, cue=o.cue, gold=True)
        self._statements(o.statements)

    def _split(
        self,
        split: str,
        count: int,
        pairs: Sequence[tuple[QuestionFamily, int]],
        *,
        held: bool | None,
        cue: float,
        contrast: bool = False,
        gold: bool = False,
    ) -> None:
        """`count` questions, the pairs of family and steps in turn; `held` is which chains may be drawn (None: any)."""
        rng = random.Random(f"{self._seed} {split}")
        questions: list[Question] = []
        edited: list[Question] = []
        responses: list[Response] = []
        for _ in range(200 * count):
            if len(questions) == count:
                break
            family, steps = pairs[len(questions) % len(pairs)]
            walk = self._draw_walk(family, steps, rng)
            edit = self._draw_edit(walk, rng, held)
            if edit is None or (held is not None and held != self._is_held_out(walk.chain)):
                continue
            right, wrong = self._walk(walk)[-1], self._walk(edit)[-1]
            if rng.random() >= _acceptance(cue, right in family.states[:6]):
                continue
            wording = _Wording(rng, (right, wrong))
            text, other = wording.question(walk), wording.question(edit)
            if text in self._texts or (contrast and other in self._texts):
                continue
            number = f"{len(questions):05d}"
            group = f"{self._name}/pair/{number}" if contrast else None
            question = self._question(split, number, text, walk, wording, right, group)
            self._texts.add(text)
            questions.append(question)
            if contrast:
                self._texts.add(other)
                edited.append(self._question("contrast", number, other, edit, wording, wrong, group))
            if gold:
                responses.append(_response(question, wording.rationale(walk, self._walk(walk))))
        if len(questions) < count:
            raise InputError(
                f"the world holds only {len(questions)} questions for split {split!r}, {count} were asked for"
            )
        self._splits[split] = (questions, responses)
        if contrast:
            self._splits["contrast"] = (edited, [])

    def _question(
        self, split: str, number: str, text: str, walk: Walk, wording: "_Wording", answer: str, group: str | None
    ) -> Question:
        steps = len(walk.chain) - 2
        return Question(
            id=f"{self._name}/{split}/{number}",
            task=self._name,
            split=split,
            text=text,
            choices=wording.options,
            answer=answer,
            group=group,
            tags=(walk.family.name, f"{steps} steps"),
        )

    def _statements(self, count: int) -> None:
        """Texts of several facts, the beginning as context (empty for every other text), the rest to be said."""
        rng = random.Random(f"{self._seed} statements")
        questions, responses = [], []
        for number in range(count):
            tokens: list[str] = []
            for _ in range(self.options.facts):
                family = rng.choice(words.FAMILIES)
                state, operation = rng.choice(family.states), rng.choice(family.operations)
                result = self.results[family.name][operation][state]
                fact = words.FACT.format(state=state, operation=operation, verb=family.verb, result=result)
                tokens += fact.split()
            cut = rng.randrange(len(tokens) // 2) if number % 2 else 0
            question = Question(
                id=f"{self._name}/statements/{number:05d}",
                task=self._name,
                split="statements",
                text="",
                context=" ".join(tokens[:cut]) or None,
            )
            questions.append(question)
            responses.append(_response(question, " ".join(tokens[cut:])))
        self._splits["statements"] = (questions, responses)

    # -- chains ------------------------------------------------------------------------------------------------------

    def _draw_walk(self, family: QuestionFamily, steps: int, rng: random.Random) -> Walk:
        total = rng.randint(steps, self.options.days)
        days: list[str | None] = [None] * total
        for day in rng.sample(range(total), steps):
            days[day] = rng.choices(family.operations, words.FREQUENCIES)[0]
        return Walk(family, rng.choice(family.states), tuple(days))

    def _draw_edit(self, walk: Walk, rng: random.Random, held: bool | None) -> Walk | None:
        """The walk with one operation changed, its chain held out if `held`; None if there is no such walk.

        Two operations never lead from one state to the same state, and none joins two states, so the change of one
        step always changes the end.
        """
        edits = [
            Walk(walk.family, walk.start, (*walk.days[:i], other, *walk.days[i + 1 :]))
            for i, operation in enumerate(walk.days)
            if operation is not None
            for other in walk.family.operations
            if other != operation
        ]
        if held:
            edits = [e for e in edits if self._is_held_out(e.chain)]
        return rng.choice(edits) if edits else None

    def _walk(self, walk: Walk) -> list[str]:
        """The states of a walk, the start included: one more than days."""
        states = [walk.start]
        for operation in walk.days:
            states.append(states[-1] if operation is None else self.results[walk.family.name][operation][states[-1]])
        return states

    def _is_held_out(self, chain: tuple[str, ...]) -> bool:
        digest = hashlib.blake2b(f"{self._seed} {' '.join(chain)}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.options.held_out * 2**64


class _Wording:
    """The choices of words of one question, so that a contrast question differs from its test question in one word."""

    def __init__(self, rng: random.Random, options: tuple[str, str]):
        self._rng = rng
        self._name = rng.choice(words.NAMES)
        self._first_day = rng.randrange(len(words.DAYS))
        self._template = rng.randrange(2)
        self.options = options if rng.random() < 0.5 else options[::-1]

    def question(self, walk: Walk) -> str:
        met = [f"{self._day(i)} {o or words.REST}" for i, o in enumerate(walk.days)]
        days = " , ".join([*met, f"{self._day(len(met))} {words.STOP}"])
        a, b = self.options
        template = walk.family.questions[self._template]
        return template.format(name=self._name, start=walk.start, days=days, a=a, b=b)

    def rationale(self, walk: Walk, states: Sequence[str]) -> str:
        family, rng = walk.family, self._rng
        parts = [family.opening.format(name=self._name, start=walk.start)] if rng.random() < 0.5 else []
        for i, operation in enumerate(walk.days):
            step = rng.choice(words.STEPS).format(
                day=self._day(i),
                state=states[i],
                operation=operation or words.REST,
                verb=family.verb if operation else words.REST_VERB,
                result=states[i + 1],
            )
            parts.append(step)
        parts.append(words.ENDING.format(day=self._day(len(walk.days))))
        return " ".join(parts)

    def _day(self, i: int) -> str:
        return words.DAYS[(self._first_day + i) % len(words.DAYS)]


def check_no_overlap(splits: Mapping[str, Sequence[Question]]) -> None:
    """Raises ValueError if a question text occurs twice, in one split or in two, and InputError on a doubled id."""
    seen: dict[str, str] = {}
    for split, questions in splits.items():
        require_unique(questions, f"world, split {split}")
        for question in questions:
            if not question.text:
                continue
            if question.text in seen:
                raise ValueError(f"question of {split} is also in {seen[question.text]}: {question.text!r}")
            seen[question.text] = split


def _facts(family: QuestionFamily, rng: random.Random) -> dict[str, dict[str, str]]:
    """operation -> state -> result: permutations without fixed points, no two of which agree on a state."""
    facts: dict[str, dict[str, str]] = {}
    for operation in family.operations:
        while operation not in facts:
            results = rng.sample(family.states, len(family.states))
            taken = [{state, *(known[state] for known in facts.values())} for state in family.states]
            if all(r not in t for r, t in zip(results, taken, strict=True)):
                facts[operation] = dict(zip(family.states, results, strict=True))
    return facts


def _acceptance(cue: float, favoured: bool) -> float:
    """Probability of keeping a question so that a share `cue` of the kept ones has the favoured kind."""
    share = cue if favoured else 1 - cue
    return share / max(cue, 1 - cue)


def _response(question: Question, rationale: str) -> Response:
    """The world's own response: certain (log-probability zero), counted in words."""
    answer: Any = question.answer
    return Response(
        question_id=question.id,
        sample_index=0,
        text=rationale,
        rationale=rationale,
        answer=answer,
        correct=None if answer is None else True,
        finish_reason="stop",
        logprob=0.0,
        num_tokens=len(rationale.split()),
        model="world",
        sampling="gold",
    )
