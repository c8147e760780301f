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
from scotd_jax.tasks.world_splits import SplitSpec, WorldOptions, check_pairs, split_specs
from scotd_jax.tasks.world_vocabulary import QuestionFamily
from scotd_jax.tasks.world_wording import Wording


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
        for spec in split_specs(self.options):
            check_pairs(spec, self.options, f"config.tasks.{self._name}.options")
            self._generate_split(spec)
        self._generate_statements(self.options.statements)

    def _generate_split(self, spec: SplitSpec) -> None:
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

    def _draw_pair(
        self, spec: SplitSpec, family: QuestionFamily, steps: int, rng: random.Random
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
