"""The embedded world: readable multiple-choice questions whose answers are chains of look-ups, generated from a seed.

It reproduces the papers' claims without network access or pretrained weights. It has

* questions in three families with the same kinds of steps, gold rationales in varied wording (`gold`, the training
  data of the teacher) and plain statements of the facts (`statements`, the pretraining data of the students);
* a spurious cue: states have two kinds, and in `train`, `dev` and `test` the right option is of the favoured kind in
  three of four questions, while the wrong option is of either kind; no step of the reasoning involves the kinds;
* `contrast`: every test question with one step edited so that the other option becomes right (same `group`);
* `unseen`: pairs of family and number of steps that are in no training split of the students; `longer`: more steps than
  in any training split. Both are free of the cue.

A quarter of all chains (family, start, operations) is held out: `dev`, `test`, `contrast` and `unseen` draw from it and
no training split does, so not only their texts but also their chains are new. Every step takes one day, and days
without a step ("rest") make the length of a text independent of the number of steps.
"""

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scotd_jax import config
from scotd_jax.errors import InputError
from scotd_jax.records import Question, Response
from scotd_jax.tasks import world_vocabulary as words
from scotd_jax.tasks.base import SplitTask, require_unique
from scotd_jax.tasks.prompt_formats import get_prompt_format
from scotd_jax.tasks.world_problems import Problem, draw_facts, draw_problem, edits, is_held_out
from scotd_jax.tasks.world_vocabulary import QuestionFamily
from scotd_jax.tasks.world_wording import Wording

FamilyAndSteps = tuple[QuestionFamily, int]


@dataclasses.dataclass(frozen=True)
class WorldOptions:
    """Options of the world: the keys of `config.Task.options`."""

    train: int = 600  # questions in each split
    dev: int = 256
    test: int = 256  # and as many contrast questions
    unseen: int = 256
    longer: int = 256
    gold: int = 5000
    statements: int = 2000  # texts of several facts each
    facts: int = 8  # facts per text of `statements`
    days: int = 5  # maximum number of days of a question, without the day of the stop
    steps: tuple[int, ...] = (2, 3)  # operations per question
    longer_steps: tuple[int, ...] = (4, 5)
    unseen_pairs: tuple[str, ...] = ("town 3", "paint 2")  # family and number of steps
    cue: float = 0.75  # share of questions whose right option is of the favoured kind
    held_out: float = 0.25  # share of the chains that are in no training split


@dataclasses.dataclass(frozen=True)
class _SplitSpec:
    """Content of a split.

    Attributes:
      split: its name.
      count: number of questions.
      pairs: family and number of steps of the questions; the pairs are used in turn.
      held_out: whether its chains are held out; None allows any chain.
      cue: share of questions whose right option is of the favoured kind.
      contrast: whether to generate the `contrast` split along with it.
      gold: whether to generate gold rationales.
    """

    split: str
    count: int
    pairs: Sequence[FamilyAndSteps]
    held_out: bool | None
    cue: float
    contrast: bool = False
    gold: bool = False


def world(name: str, task: config.Task, seed: int) -> "World":
    """Generates a world.

    Args:
      name: key of the task in the config.
      task: its config entry.
      seed: determines the facts and the questions.

    Raises:
      InputError: on an unknown option, or if a split is larger than the number of different questions.
    """
    known = {f.name: f for f in dataclasses.fields(WorldOptions)}
    for key in task.options:
        if key not in known:
            raise InputError(
                f"config.tasks.{name}.options.{key}: the world has no such option; it has {', '.join(known)}"
            )
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in task.options.items()}
    return World(name, WorldOptions(**values), seed, task.format or "plain", task.limit)


class World(SplitTask):
    """The world as a task. The constructor generates all splits, which takes about a second."""

    def __init__(
        self,
        name: str,
        options: WorldOptions = WorldOptions(),
        seed: int = 0,
        prompt_format: str = "plain",
        limit: int = 0,
    ):
        """Generates all splits; see `world` for the arguments."""
        self.options = options
        self._name, self._seed = name, seed
        self.facts = draw_facts(seed)
        self._texts: set[str] = set()
        self._splits: dict[str, tuple[list[Question], list[Response]]] = {}
        self._generate()
        check_no_overlap({split: questions for split, (questions, _) in self._splits.items()})
        loaders = {split: (lambda loaded=loaded: loaded) for split, loaded in self._splits.items()}
        super().__init__(name, get_prompt_format(prompt_format), loaders, limit)

    def texts(self) -> Iterator[str]:
        """Yields every word of the world, then all prompts and targets.

        The vocabulary of a tokenizer trained on them does not depend on the sizes of the splits.
        """
        for family in words.FAMILIES:
            yield " ".join((*family.states, *family.operations, family.verb, *family.questions, family.opening))
        yield " ".join((*words.DAYS, *words.NAMES, *words.STEPS, words.REST, words.REST_VERB, words.ENDING, words.FACT))
        yield from super().texts()

    def _generate(self) -> None:
        options = self.options
        pairs = [(family, steps) for family in words.FAMILIES for steps in options.steps]
        unseen = [pair for pair in pairs if f"{pair[0].name} {pair[1]}" in options.unseen_pairs]
        seen = [pair for pair in pairs if pair not in unseen]
        longer = [(family, steps) for family in words.FAMILIES for steps in options.longer_steps]
        for spec in (
            _SplitSpec("train", options.train, seen, held_out=False, cue=options.cue),
            _SplitSpec("dev", options.dev, seen, held_out=True, cue=options.cue),
            _SplitSpec("test", options.test, seen, held_out=True, cue=options.cue, contrast=True),
            _SplitSpec("unseen", options.unseen, unseen, held_out=True, cue=0.5),
            _SplitSpec("longer", options.longer, longer, held_out=None, cue=0.5),
            _SplitSpec("gold", options.gold, pairs, held_out=False, cue=options.cue, gold=True),
        ):
            self._generate_split(spec)
        self._generate_statements(options.statements)

    def _generate_split(self, spec: _SplitSpec) -> None:
        self._check_pairs(spec)
        rng = random.Random(f"{self._seed} {spec.split}")
        questions: list[Question] = []
        contrast: list[Question] = []
        responses: list[Response] = []
        for _ in range(200 * spec.count):  # attempts, because draws may be rejected
            if len(questions) == spec.count:
                break
            family, steps = spec.pairs[len(questions) % len(spec.pairs)]
            drawn = self._draw_pair(spec, family, steps, rng)
            if drawn is None:
                continue
            problem, edit = drawn
            right, wrong = problem.states(self.facts)[-1], edit.states(self.facts)[-1]
            # The first six states of a family are of the favoured kind.
            if rng.random() >= _acceptance(spec.cue, right in family.states[:6]):
                continue
            wording = Wording(rng, (right, wrong))
            text, contrast_text = wording.question(problem), wording.question(edit)
            if text in self._texts or (spec.contrast and contrast_text in self._texts):
                continue
            number = f"{len(questions):05d}"
            group = f"{self._name}/pair/{number}" if spec.contrast else None
            question = self._question(spec.split, number, text, problem, wording, right, group)
            self._texts.add(text)
            questions.append(question)
            if spec.contrast:
                self._texts.add(contrast_text)
                contrast.append(self._question("contrast", number, contrast_text, edit, wording, wrong, group))
            if spec.gold:
                responses.append(_response(question, wording.rationale(problem, problem.states(self.facts))))
        if len(questions) < spec.count:
            raise InputError(
                f"the world has only {len(questions)} questions for split {spec.split!r}; {spec.count} were requested"
            )
        self._splits[spec.split] = (questions, responses)
        if spec.contrast:
            self._splits["contrast"] = (contrast, [])

    def _check_pairs(self, spec: _SplitSpec) -> None:
        """Raises InputError if the options leave no pair for a split, or one with more steps than days."""
        where = f"config.tasks.{self._name}.options"
        options = self.options
        if spec.count and not spec.pairs:
            raise InputError(
                f"{where}: no pair of family and number of steps remains for the {spec.count} questions of split "
                f"{spec.split!r}; there are steps={options.steps}, longer_steps={options.longer_steps} and "
                f"unseen_pairs={options.unseen_pairs}; change one of them, or set {spec.split}=0"
            )
        most = max((steps for _, steps in spec.pairs), default=0)
        if spec.count and most > options.days:
            raise InputError(
                f"{where}.days: {options.days} days have no room for the {most} steps of split {spec.split!r}, one a "
                f"day; expected at least {most}, or set {spec.split}=0"
            )

    def _draw_pair(
        self, spec: _SplitSpec, family: QuestionFamily, steps: int, rng: random.Random
    ) -> tuple[Problem, Problem] | None:
        """Draws a problem and an edit of it; None if the split does not allow the problem or it has no edit."""
        problem = draw_problem(family, steps, self.options.days, rng)
        candidates = edits(problem)
        if spec.held_out:
            candidates = [e for e in candidates if self._is_held_out(e)]
        if not candidates:
            return None
        edit = rng.choice(candidates)
        if spec.held_out is not None and spec.held_out != self._is_held_out(problem):
            return None
        return problem, edit

    def _is_held_out(self, problem: Problem) -> bool:
        return is_held_out(problem, self._seed, self.options.held_out)

    def _question(
        self, split: str, number: str, text: str, problem: Problem, wording: Wording, answer: str, group: str | None
    ) -> Question:
        steps = len(problem.chain) - 2  # without family and start
        return Question(
            id=f"{self._name}/{split}/{number}",
            task=self._name,
            split=split,
            text=text,
            choices=wording.options,
            answer=answer,
            group=group,
            tags=(problem.family.name, f"{steps} steps"),
        )

    def _generate_statements(self, count: int) -> None:
        """Generates texts of several facts. Every other text begins in the context and continues in the response."""
        rng = random.Random(f"{self._seed} statements")
        questions, responses = [], []
        for number in range(count):
            tokens: list[str] = []
            for _ in range(self.options.facts):
                family = rng.choice(words.FAMILIES)
                state, operation = rng.choice(family.states), rng.choice(family.operations)
                result = self.facts[family.name][operation][state]
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


def check_no_overlap(splits: Mapping[str, Sequence[Question]]) -> None:
    """Checks that texts and ids are unique over all splits.

    Raises:
      ValueError: if a question text occurs twice, in one split or in two.
      InputError: if an id occurs twice in a split.
    """
    seen: dict[str, str] = {}
    for split, questions in splits.items():
        require_unique(questions, f"world, split {split}")
        for question in questions:
            if not question.text:
                continue
            if question.text in seen:
                raise ValueError(f"question of {split} is also in {seen[question.text]}: {question.text!r}")
            seen[question.text] = split


def _acceptance(cue: float, favoured: bool) -> float:
    """Returns the probability of accepting a question so that a share `cue` of the accepted ones is favoured."""
    share = cue if favoured else 1 - cue
    return share / max(cue, 1 - cue)


def _response(question: Question, rationale: str) -> Response:
    """Returns a gold response, with log-probability 0 and a token count in words."""
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
