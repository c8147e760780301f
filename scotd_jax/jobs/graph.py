"""Which jobs a config asks for, in an order in which each finds what it needs.

The chain is not a fixed list: a teacher may itself be a student of this run (trained before it is sampled), and a
student may start from another one. So the order follows from the references in the config.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from scotd_jax.config import Config, EvalSpec
from scotd_jax.errors import InputError, did_you_mean
from scotd_jax.jobs.generation.servers.requests import REMOTE, check_remote, check_think
from scotd_jax.tasks import recipes
from scotd_jax.tasks.question_sets import QuestionSet

JOBS = ("sample", "build", "train", "evaluate", "export", "report")
PLAN = "plan"  # a job beside the chain: what the others would need


class Step(NamedTuple):
    """One job on one artefact: ("train", "scotd"). The report is one for the whole run, its name is empty."""

    job: str
    name: str

    def __str__(self) -> str:
        return f"{self.job} {self.name}".strip()


def eval_specs(config: Config) -> dict[str, EvalSpec]:
    """Every way in which a student is asked: its own, under its name, and those of `config.evals`."""
    own = {
        name: EvalSpec(name, s.eval_sets, s.arm or name, s.rationales_from)
        for name, s in config.students.items()
        if s.eval_sets
    }
    if both := sorted(own.keys() & config.evals.keys()):
        raise InputError(f"config.evals.{both[0]}: a student of that name is asked already; choose another name")
    others = {
        name: dataclasses.replace(
            asking,
            arm=asking.arm or name,
            rationales_from=asking.rationales_from
            or lookup(config.students, asking.student, f"config.evals.{name}.student").rationales_from,
        )
        for name, asking in config.evals.items()
    }
    return own | others


def chain(config: Config, jobs: tuple[str, ...] = JOBS) -> list[Step]:
    """All steps of `jobs` in order. Raises InputError on names that the config does not define, and on circles."""
    for job in jobs:
        lookup(dict.fromkeys((*JOBS, PLAN)), job, "--jobs")
    check(config)
    wanted = [Step("sample", name) for name in config.rationales]
    wanted += [Step("build", name) for name in config.corpora]
    wanted += [Step("train", name) for name in config.students]
    wanted += [Step("export", name) for name, student in config.students.items() if student.export]
    wanted += [Step("report", "")]
    steps: list[Step] = []
    for step in wanted:
        _visit(config, step, steps, ())
    return [step for step in steps if step.job in jobs]


def _visit(config: Config, step: Step, done: list[Step], path: tuple[Step, ...]) -> None:
    if step in path:
        circle = " -> ".join(str(s) for s in (*path[path.index(step) :], step))
        raise InputError(f"config: these need each other, so none can come first: {circle}")
    if step not in done:
        for needed in needs(config, step):
            _visit(config, needed, done, (*path, step))
        done.append(step)


def needs(config: Config, step: Step) -> Iterator[Step]:
    """The steps whose artefacts `step` reads."""
    job, name = step
    if job == "sample":
        rationales = config.rationales[name]
        if rationales.source == "model" and rationales.model.student:
            yield Step("train", rationales.model.student)
    elif job == "build":
        yield from (Step("sample", source) for source in config.corpora[name].rationales)
    elif job == "train":
        student = config.students[name]
        if student.model.student:
            yield Step("train", student.model.student)
        yield Step("build", student.corpus)
        if student.dev_sets:
            yield from (Step("sample", source) for source in student.rationales_from)
    elif job == "evaluate":
        asking = eval_specs(config)[name]
        yield Step("train", asking.student)
        yield from (Step("sample", source) for source in asking.rationales_from)
    elif job == "export":
        yield Step("evaluate" if config.students[name].eval_sets else "train", name)
    else:
        yield from (Step("evaluate", name) for name in eval_specs(config))
        yield from (Step("export", name) for name, student in config.students.items() if student.export)


def check(config: Config) -> None:
    """Every reference in the config leads somewhere, and nothing is chosen on a set that is reported."""
    if (profile := config.profile).first < 0 or (profile.last and not 0 < profile.first <= profile.last):
        raise InputError(
            f"config.profile: first is {profile.first} and last is {profile.last}; expected 1 <= first <= last"
        )
    for name, rationales in config.rationales.items():
        where = f"config.rationales.{name}"
        _check_sets(config, rationales.questions, f"{where}.questions")
        if rationales.source == "model":
            _check_model(config, rationales.model, f"{where}.model")
            check_think(rationales, where)
        elif rationales.source in REMOTE:
            check_remote(rationales, where)
        if rationales.source in ("model", *REMOTE):
            recipe = rationales.recipe
            if not recipe and rationales.source == "model" and rationales.model.student:
                student = config.students[rationales.model.student]
                recipe = lookup(config.corpora, student.corpus, f"config.students.{rationales.model.student}").recipe
            if recipes.needs_rationale(recipes.find(recipe or "scotd", config.recipes, f"{where}.recipe")):
                raise InputError(
                    f"{where}: recipe {recipe!r} reads rationales, and there are none before this set; give another "
                    "recipe that asks for them"
                )
    for name, corpus in config.corpora.items():
        where = f"config.corpora.{name}"
        for source in corpus.rationales:
            lookup(config.rationales, source, f"{where}.rationales")
        if not corpus.rationales and not corpus.questions:
            raise InputError(f"{where}: needs rationales, or questions with a recipe such as 'label'")
        _check_sets(config, corpus.questions, f"{where}.questions")
        recipe = recipes.find(corpus.recipe, config.recipes, f"{where}.recipe")
        if not corpus.rationales and recipes.uses_fields(recipe, *recipes.RESPONSE_FIELDS):
            raise InputError(f"{where}: recipe {corpus.recipe!r} is made of responses; name their sets in rationales")
    for name, student in config.students.items():
        where = f"config.students.{name}"
        lookup(config.corpora, student.corpus, f"{where}.corpus")
        _check_model(config, student.model, f"{where}.model")
        _check_sets(config, student.dev_sets, f"{where}.dev_sets")
        for source in student.rationales_from:
            lookup(config.rationales, source, f"{where}.rationales_from")
        recipe = recipes.find(config.corpora[student.corpus].recipe, config.recipes, f"{where}.corpus")
        if recipe.parse_as == "rationale" and (student.dev_sets or student.eval_sets):
            raise InputError(
                f"{where}: its recipe says rationales and no answers, so it has no dev_sets and no eval_sets"
            )
    for name, asking in eval_specs(config).items():
        where = f"config.{'evals' if name in config.evals else 'students'}.{name}"
        student = lookup(config.students, asking.student, f"{where}.student")
        if not asking.eval_sets:
            raise InputError(f"{where}.eval_sets: which question sets are to be asked?")
        _check_sets(config, asking.eval_sets, f"{where}.eval_sets")
        for source in asking.rationales_from:
            lookup(config.rationales, source, f"{where}.rationales_from")
        if asking.n < 1:
            raise InputError(f"{where}.n: expected at least 1, found {asking.n}")
        if both := set(student.dev_sets) & set(asking.eval_sets):
            raise InputError(
                f"{where}: {both.pop()!r} is in dev_sets and in eval_sets; what is reported may not choose the best"
            )
    for name in config.corpora:
        if not any(student.corpus == name for student in config.students.values()):
            raise InputError(f"config.corpora.{name}: no student reads it, so no tokenizer is known to encode it with")


def lookup(names: Mapping[str, Any], name: str, where: str) -> Any:
    """names[name]. Raises InputError with the nearest name."""
    if name in names:
        return names[name]
    raise InputError(f"{where}: {name!r} is not defined; {did_you_mean(name, names)}")


def _check_sets(config: Config, sets: tuple[str, ...], where: str) -> None:
    for name in sets:
        lookup(config.tasks, QuestionSet.parse(name, where).task, where)


def _check_model(config: Config, model: Any, where: str) -> None:
    given = [key for key in ("architecture", "path", "student") if getattr(model, key)]
    if len(given) != 1:
        raise InputError(f"{where}: give one of architecture, path and student; found {' and '.join(given) or 'none'}")
    if model.student:
        lookup(config.students, model.student, f"{where}.student")
    if model.architecture and not model.tokenizer:
        raise InputError(f"{where}.tokenizer: a model with random weights needs one: a path or 'task:NAME'")
    if model.tokenizer.startswith("task:"):
        if model.chat:
            raise InputError(f"{where}.chat: a tokenizer of a task's words has no chat template; use a model's own")
        for name in model.tokenizer.removeprefix("task:").split(","):
            lookup(config.tasks, name, f"{where}.tokenizer")
