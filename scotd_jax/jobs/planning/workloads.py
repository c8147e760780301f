"""What a chain computes on accelerators: each training and each speaker, with the shapes that its program has.

Students that differ in their data alone share a program and stand in one entry.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.jobs.graph import eval_specs
from scotd_jax.jobs.planning.assumptions import Assumed
from scotd_jax.layout import round_up
from scotd_jax.tasks import recipes


@dataclasses.dataclass(frozen=True)
class Training:
    """`updates` of students of one shape: prompts [B, prompt], responses [B, group, response] in every part."""

    names: tuple[str, ...]
    paths: tuple[str, ...]  # of the settings in the config
    architecture: Any
    precision: str
    settings: c.Training
    parts: tuple[tuple[str, float], ...]
    prompt: int
    group: int
    response: int
    updates: int

    job = "train"

    @property
    def title(self) -> str:
        return f"train {shortened(self.names)}"


@dataclasses.dataclass(frozen=True)
class Speaking:
    """`samples` said to `questions` of up to `prompt` tokens, after `exemplars` tokens that are read once. With
    `answers` nothing is said: so many are compared after each prompt (sampling/likelihood.py).

    `as_read`: weights are read from their files as they are spoken with, else made of float32 parameters. `training`
    is one that waits meanwhile, with its whole state.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]  # of the policy in the config
    job: Literal["sample", "train", "evaluate"]
    architecture: Any
    precision: str
    policy: c.Sampling
    prompt: int
    exemplars: int
    questions: int
    samples: int
    answers: int = 0
    as_read: bool = False
    training: c.Training | None = None

    @property
    def title(self) -> str:
        job = "dev" if self.job == "train" else self.job
        return f"{job} {shortened(self.names)}"


Work = Training | Speaking


def program_of(work: Work) -> Work:
    """What of a work makes its program: equal ones are compiled once."""
    if isinstance(work, Training):
        return dataclasses.replace(work, names=(), paths=(), settings=_same(work.settings), updates=0)
    return dataclasses.replace(
        work, names=(), paths=(), job="sample", questions=0, samples=0, as_read=False, training=None
    )  # fmt: skip


def _same(settings: c.Training) -> c.Training:
    """Without what changes nothing of the program but numbers in it."""
    optimizer = dataclasses.replace(settings.optimizer, warmup_steps=0, learning_rate=1.0)
    return dataclasses.replace(
        settings,
        steps=10**9,
        eval_every=0,
        save_every=0,
        log_every=1,
        max_to_keep=0,
        tensorboard=False,
        optimizer=optimizer,
    )


def shortened(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def works(config: c.Config, assumed: Assumed) -> list[Work]:
    """Everything that a chain computes, students of one shape together. Raises InputError where a shape is unknown."""
    found: dict[Any, Work] = {}
    for work in (*_teachers(config, assumed), *_students(config, assumed), *_evaluations(config, assumed)):
        counts = ("updates",) if isinstance(work, Training) else ("questions", "samples")
        key = dataclasses.replace(program_of(work), **({} if isinstance(work, Training) else {"job": work.job}))
        key = key, getattr(work, "as_read", None), getattr(work, "training", None)
        if key in found:
            there = found[key]
            sums = {name: getattr(there, name) + getattr(work, name) for name in counts}
            for name in ("names", "paths"):
                sums[name] = tuple(dict.fromkeys((*getattr(there, name), *getattr(work, name))))
            work = dataclasses.replace(there, **sums)
        found[key] = work
    if not found:
        raise InputError("config: it trains nothing and no model of its own speaks, so there is nothing to plan")
    return list(found.values())


def _teachers(config: c.Config, assumed: Assumed) -> Iterator[Speaking]:
    for name, spec in config.rationales.items():
        if spec.source != "model":
            continue
        architecture = assumed.model(spec.model)
        few_shot = spec.few_shot
        if spec.model.student and not few_shot:
            few_shot = config.corpora[config.students[spec.model.student].corpus].few_shot
        readers = [corpus for corpus in config.corpora.values() if name in corpus.rationales]
        longest = config.plan.prompt_tokens or max((corpus.max_prompt_tokens for corpus in readers), default=700)
        questions = assumed.questions(spec.questions)
        yield _speaking(
            config.plan,
            longest,
            few_shot,
            names=(name,),
            paths=(f"rationales.{name}.sampling",),
            job="sample",
            architecture=architecture,
            precision="bfloat16",
            policy=spec.sampling,
            questions=questions,
            samples=questions * spec.sampling.n,
            as_read=bool(spec.model.path),
        )


def _students(config: c.Config, assumed: Assumed) -> Iterator[Work]:
    for name, student in config.students.items():
        architecture, corpus, training = assumed.model(student.model), config.corpora[student.corpus], student.training
        recipe = recipes.find(corpus.recipe, config.recipes, f"config.corpora.{student.corpus}.recipe")
        said = [config.rationales[each] for each in corpus.rationales]
        most = corpus.n or (sum(r.sampling.n for r in said) if all(r.source == "model" for r in said) else 10**9)
        yield Training(
            names=(name,),
            paths=(f"students.{name}.training",),
            architecture=architecture,
            precision=student.precision,
            settings=training,
            parts=tuple((part, spec.weight) for part, spec in recipe.parts.items()),
            prompt=round_up(corpus.max_prompt_tokens - _own_start(architecture), 8),
            group=max(1, min(training.group_size, most)),
            response=round_up(corpus.max_response_tokens, 8),
            updates=training.steps,
        )
        if student.dev_sets:
            asked = assumed.questions(student.dev_sets)
            asked = min(asked, config.evaluation.dev_questions or asked)
            times = -(-training.steps // training.eval_every) if training.eval_every else 1
            speaking = _evaluation(config, name, c.EvalSpec(name), "sampling", architecture, asked * times)
            yield dataclasses.replace(speaking, job="train", training=_same(training))


def _evaluations(config: c.Config, assumed: Assumed) -> Iterator[Speaking]:
    settings = config.evaluation
    for name, asking in eval_specs(config).items():
        architecture = assumed.model(config.students[asking.student].model)
        asked = assumed.questions(asking.eval_sets, settings.limit)
        if asking.rationales_from:  # it answers once to each rationale
            each = _evaluation(config, name, asking, "sampling", architecture, asked * asking.n)
            if asking.combine == "marginal":
                whole = round_up(each.prompt + each.exemplars, each.policy.bucket)
                each = dataclasses.replace(each, prompt=whole, exemplars=0, answers=assumed.answers(asking.eval_sets))
            yield each
            continue
        yield _evaluation(config, name, asking, "sampling", architecture, asked, settings.sampling.n)
        if n := settings.self_consistency.n:
            yield _evaluation(config, name, asking, "self_consistency", architecture, asked, n)


def _evaluation(
    config: c.Config, name: str, asking: c.EvalSpec, which: str, architecture: Any, questions: int, samples: int = 1
) -> Speaking:
    """With so many samples of each question. The longest prompt of a corpus holds the examples it is taught with."""
    spec, plan = config.students[asking.student], config.plan
    corpus = config.corpora[spec.corpus]
    return _speaking(
        plan,
        plan.prompt_tokens or max(1, corpus.max_prompt_tokens - corpus.few_shot * plan.exemplar_tokens),
        corpus.few_shot if asking.few_shot < 0 else asking.few_shot,
        names=(name,),
        paths=(f"evaluation.{which}",),
        job="evaluate",
        architecture=architecture,
        precision=spec.precision,
        policy=getattr(config.evaluation, which),
        questions=questions,
        samples=questions * samples,
    )


def _speaking(plan: c.Plan, longest: int, few_shot: int, **fields: Any) -> Speaking:
    """With prompts of up to `longest` tokens after so many worked examples."""
    architecture, bucket, exemplars = fields["architecture"], fields["policy"].bucket, few_shot * plan.exemplar_tokens
    if architecture.start_token is not None:  # an encoder reads all of its prompt at once
        longest, exemplars = longest + exemplars, 0
    prompt = round_up(longest - _own_start(architecture), bucket)
    return Speaking(prompt=prompt, exemplars=round_up(exemplars, bucket) if exemplars else 0, **fields)


def _own_start(architecture: Any) -> int:
    """Decoder-only: the prompt's last token is the first input of the response."""
    return 0 if architecture.start_token is not None else 1
