"""The steps of a run and their order, and the checks of a config before any of them starts.

The order follows from the references in the config: a teacher may be a student of the same config, which is trained
before it is sampled from, and a student may start from another student.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from scotd_jax.config import (
    Config,
    EvalSpec,
    GeneratedSource,
    Model,
    ModelSource,
    RationaleSource,
    Recipe,
    RemoteSource,
    ServerSource,
    Student,
)
from scotd_jax.errors import InputError, did_you_mean
from scotd_jax.hub.hub_files import is_repository
from scotd_jax.jobs.generation.prompting import source_prompt_settings
from scotd_jax.tasks import recipes
from scotd_jax.tasks.question_sets import QuestionSet

JOBS = ("sample", "build", "train", "evaluate", "export", "report")
PLAN = "plan"  # not a step: estimates memory and time of the steps


class Step(NamedTuple):
    """One job for one artefact, e.g. ("train", "n30"). The report belongs to the whole run and has an empty name."""

    job: str
    name: str

    def __str__(self) -> str:
        return f"{self.job} {self.name}".strip()


def chain(config: Config, jobs: tuple[str, ...] = JOBS) -> list[Step]:
    """Returns all steps of `jobs`, each after the steps that it depends on.

    Raises:
      InputError: as `check`; if a job does not exist; or if steps depend on each other in a cycle.
    """
    for job in jobs:
        lookup(dict.fromkeys((*JOBS, PLAN)), job, "--jobs")
    check(config)
    wanted = [Step("sample", name) for name in config.rationales]
    wanted += [Step("evaluate", name) for name, spec in eval_specs(config).items() if not evaluates_training(spec)]
    wanted += [Step("build", name) for name in config.corpora]
    wanted += [Step("train", name) for name in config.students]
    wanted += [Step("export", name) for name, student in config.students.items() if student.export]
    wanted += [Step("report", "")]
    steps: list[Step] = []
    for step in wanted:
        _append_with_dependencies(config, step, steps, ())
    return [step for step in steps if step.job in jobs]


def _append_with_dependencies(config: Config, step: Step, done: list[Step], path: tuple[Step, ...]) -> None:
    if step in path:
        cycle = " -> ".join(str(s) for s in (*path[path.index(step) :], step))
        raise InputError(f"config: these steps depend on each other in a cycle: {cycle}")
    if step not in done:
        for needed in needs(config, step):
            _append_with_dependencies(config, needed, done, (*path, step))
        done.append(step)


def needs(config: Config, step: Step) -> Iterator[Step]:
    """Yields the steps whose artefacts `step` reads."""
    job, name = step
    if job == "sample":
        source = config.rationales[name]
        if isinstance(source, ModelSource) and source.model.student:
            yield Step("train", source.model.student)
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
        spec = eval_specs(config)[name]
        if evaluates_training(spec):
            yield Step("train", spec.student)
        elif spec.student and (initial := config.students[spec.student].model.student):
            yield Step("train", initial)
        yield from (Step("sample", source) for source in (*spec.rationales_from, spec.responses) if source)
    elif job == "export":
        yield Step("evaluate" if config.students[name].eval_sets else "train", name)
    else:
        yield from (Step("evaluate", name) for name in eval_specs(config))
        yield from (Step("export", name) for name, student in config.students.items() if student.export)


def eval_specs(config: Config) -> dict[str, EvalSpec]:
    """Returns all evaluations by name: one for every student with `eval_sets`, and those in `config.evals`."""
    own = {
        name: EvalSpec(
            name, student.eval_sets, student.arm or name, student.rationales_from, read=config.evaluation.read
        )
        for name, student in config.students.items()
        if student.eval_sets
    }
    if both := sorted(own.keys() & config.evals.keys()):
        raise InputError(f"config.evals.{both[0]}: a student has an evaluation of this name; choose another name")
    return own | {name: _resolved(config, name, spec) for name, spec in config.evals.items()}


def _resolved(config: Config, name: str, spec: EvalSpec) -> EvalSpec:
    """An additional evaluation with the arm, rationales and reading that its empty fields stand for."""
    if evaluates_training(spec) and not spec.rationales_from:
        student = lookup(config.students, spec.student, f"config.evals.{name}.student")
        spec = dataclasses.replace(spec, rationales_from=student.rationales_from)
    return dataclasses.replace(spec, arm=spec.arm or name, read=spec.read or _default_reading(config, spec))


def _default_reading(config: Config, spec: EvalSpec) -> Literal["text", "choices", "both"]:
    """How answers are read by default: always from the text where no local model can compare the choices."""
    compares = _has_local_model(config, spec) and spec.combine == "vote"
    return config.evaluation.read if compares else "text"


def _has_local_model(config: Config, spec: EvalSpec) -> bool:
    return not spec.responses or isinstance(config.rationales.get(spec.responses), ModelSource)


def evaluates_training(spec: EvalSpec) -> bool:
    """Returns whether a trained student is evaluated, not its model before training or a set of responses."""
    return not spec.responses and spec.checkpoint == "best"


def lookup(entries: Mapping[str, Any], name: str, where: str) -> Any:
    """Returns entries[name]. Raises InputError with the nearest name if there is no such entry."""
    if name not in entries:
        raise InputError(f"{where}: {name!r} is not defined; {did_you_mean(name, entries)}")
    return entries[name]


def check(config: Config) -> None:
    """Checks the relations between the parts of a config; the schema checks single values.

    Raises:
      InputError: if a reference is not defined, a required value is missing, or checkpoints would be chosen on a
        reported set.
    """
    for name, source in config.rationales.items():
        _check_rationales(config, source, f"config.rationales.{name}")
    for name in config.corpora:
        _check_corpus(config, name, f"config.corpora.{name}")
    for name, student in config.students.items():
        _check_student(config, student, f"config.students.{name}")
    for name, spec in eval_specs(config).items():
        _check_eval(config, spec, f"config.{'evals' if name in config.evals else 'students'}.{name}")
    for name in config.corpora:
        if not any(student.corpus == name for student in config.students.values()):
            raise InputError(f"config.corpora.{name}: no student trains on it, so there is no tokenizer to encode it")
    for name, repo in config.push_to_hub.items():
        _check_push(config, name, repo, "config.push_to_hub")


def _check_rationales(config: Config, source: RationaleSource, where: str) -> None:
    _check_sets(config, source.questions, f"{where}.questions")
    if isinstance(source, ModelSource):
        _check_model(config, source.model, f"{where}.model")
    if isinstance(source, RemoteSource) and not source.server.model:
        raise InputError(f"{where}.server.model: set the name of the model on the server")
    if isinstance(source, ServerSource) and not source.server.url:
        raise InputError(f"{where}.server.url: expected http(s)://HOST[:PORT]/v1, found ''")
    if isinstance(source, GeneratedSource):
        if source.sampling.n < 1:
            raise InputError(f"{where}.sampling.n: expected at least 1, found {source.sampling.n}")
        name = source.recipe or _student_recipe(config, source)
        if recipes.needs_rationale(recipes.find(name, config.recipes, f"{where}.recipe")):
            raise InputError(
                f"{where}: recipe {name!r} needs rationales in its prompts; choose one that generates them"
            )
        source_prompt_settings(config, source, where)  # raises on settings that do not fit together


def _student_recipe(config: Config, source: RationaleSource) -> str:
    """The recipe of the sampled student, or the default recipe for other models."""
    if not isinstance(source, ModelSource) or not source.model.student:
        return "scotd"
    student = config.students[source.model.student]
    return lookup(config.corpora, student.corpus, f"config.students.{source.model.student}.corpus").recipe


def _check_corpus(config: Config, name: str, where: str) -> None:
    corpus = config.corpora[name]
    for source in corpus.rationales:
        lookup(config.rationales, source, f"{where}.rationales")
    if not corpus.rationales and not corpus.questions:
        raise InputError(f"{where}: needs rationales, or questions with a recipe such as 'label'")
    _check_sets(config, corpus.questions, f"{where}.questions")
    recipe = recipes.find(corpus.recipe, config.recipes, f"{where}.recipe")
    if not corpus.rationales and recipes.uses_fields(recipe, *recipes.RESPONSE_FIELDS):
        raise InputError(
            f"{where}.rationales: recipe {corpus.recipe!r} uses responses; list the sets of responses here"
        )


def _check_student(config: Config, student: Student, where: str) -> None:
    corpus = lookup(config.corpora, student.corpus, f"{where}.corpus")
    _check_model(config, student.model, f"{where}.model")
    _check_sets(config, student.dev_sets, f"{where}.dev_sets")
    for source in student.rationales_from:
        lookup(config.rationales, source, f"{where}.rationales_from")
    recipe = recipes.find(corpus.recipe, config.recipes, f"{where}.corpus")
    if recipe.parse_as == "rationale" and (student.dev_sets or student.eval_sets):
        raise InputError(f"{where}: recipe {corpus.recipe!r} has no answers to evaluate; remove dev_sets and eval_sets")


def _check_eval(config: Config, spec: EvalSpec, where: str) -> None:
    if not spec.eval_sets:
        raise InputError(f"{where}.eval_sets: list the question sets to evaluate on")
    _check_sets(config, spec.eval_sets, f"{where}.eval_sets")
    for source in spec.rationales_from:
        lookup(config.rationales, source, f"{where}.rationales_from")
    if spec.n < 1:
        raise InputError(f"{where}.n: expected at least 1, found {spec.n}")
    if spec.read != "text":
        _check_choices(config, spec, where)
    if spec.responses:
        _check_scored_responses(config, spec, where)
        return
    student = lookup(config.students, spec.student, f"{where}.student")
    if spec.combine == "marginal" and not recipes.needs_rationale(_evaluated_recipe(config, spec, where)):
        raise InputError(f"{where}.combine: 'marginal' sums over provided rationales, but the recipe reads none")
    if spec.checkpoint == "initial":
        _check_unused(spec, ("rationales_from", "rationale_control", "n", "combine"), where, "a model before training")
    if both := set(student.dev_sets) & set(spec.eval_sets):
        raise InputError(
            f"{where}: {both.pop()!r} is in dev_sets and in eval_sets; a reported set may not choose the checkpoint"
        )


def _check_scored_responses(config: Config, spec: EvalSpec, where: str) -> None:
    source = lookup(config.rationales, spec.responses, f"{where}.responses")
    unused = ("student", "rationales_from", "rationale_control", "few_shot", "combine", "checkpoint")
    _check_unused(spec, unused, where, "a set of responses")
    if isinstance(source, GeneratedSource) and spec.n > source.sampling.n:
        raise InputError(f"{where}.n: {spec.n} of the responses of {spec.responses!r}, which has {source.sampling.n}")
    if missing := [name for name in spec.eval_sets if not _covers(source.questions, name)]:
        raise InputError(
            f"{where}.eval_sets: {missing[0]!r} is not in config.rationales.{spec.responses}.questions; add it there"
        )


def _check_choices(config: Config, spec: EvalSpec, where: str) -> None:
    """Checks that the likelihoods of choices can be computed, after a rationale or at once."""
    key = f"{where}.read" if where.startswith("config.evals.") else f"config.evaluation.read: for {where}"
    if spec.combine == "marginal":
        raise InputError(f"{key}: combine='marginal' compares the choices already; remove one of the two")
    if not _has_local_model(config, spec):
        raise InputError(
            f"{key}: {spec.read!r} needs a model that computes the likelihood of the choices, but the responses of "
            f"{spec.responses!r} are from a {config.rationales[spec.responses].source}; set read='text'"
        )
    source = config.rationales[spec.responses] if spec.responses else None
    if isinstance(source, ModelSource) and source.think:
        raise InputError(f"{key}: {spec.read!r} does not support think={source.think!r}; set read='text'")
    recipe = _evaluated_recipe(config, spec, where)
    if recipes.answer_target(recipe) is None:
        raise InputError(
            f"{key}: {spec.read!r} needs a recipe with a part that has the evaluation prompt {recipe.prompt!r} and the "
            "answer in its target; set read='text'"
        )


def _evaluated_recipe(config: Config, spec: EvalSpec, where: str) -> Recipe:
    """The recipe by which the model of an evaluation is prompted."""
    if spec.responses:
        source = config.rationales[spec.responses]
        name = getattr(source, "recipe", "") or _student_recipe(config, source)
        return recipes.find(name, config.recipes, f"config.rationales.{spec.responses}.recipe")
    student = lookup(config.students, spec.student, f"{where}.student")
    corpus = lookup(config.corpora, student.corpus, f"config.students.{spec.student}.corpus")
    recipe = recipes.find(corpus.recipe, config.recipes, f"config.corpora.{student.corpus}.recipe")
    return recipes.before_training(recipe) if spec.checkpoint == "initial" else recipe


def _covers(sets: tuple[str, ...], name: str) -> bool:
    """Whether the question set is one of `sets`, or a fold of one."""
    return name in sets or name.partition("@")[0] in sets


def _check_unused(spec: EvalSpec, fields: tuple[str, ...], where: str, evaluated: str) -> None:
    """Refuses fields that have no effect on what is evaluated."""
    for field in fields:
        if getattr(spec, field) != getattr(EvalSpec(), field):
            raise InputError(f"{where}.{field}: has no effect on the evaluation of {evaluated}; remove it")


def _check_push(config: Config, name: str, repo: str, where: str) -> None:
    releases = [f"sample {name}" for name, source in config.rationales.items() if source.release]
    exports = [f"export {name}" for name, student in config.students.items() if student.export]
    pushable = [*releases, *(f"build {name}" for name in config.corpora), *exports]
    if name not in pushable:
        raise InputError(
            f"{where}: {name!r} is not a step with files to push; {did_you_mean(name, pushable)} A set of responses "
            "needs a release, and a student export=True"
        )
    if not isinstance(repo, str) or not is_repository(repo):
        raise InputError(f"{where}[{name!r}]: expected a repository, OWNER/NAME, found {repo!r}")


def _check_sets(config: Config, sets: tuple[str, ...], where: str) -> None:
    for name in sets:
        lookup(config.tasks, QuestionSet.parse(name, where).task, where)


def _check_model(config: Config, model: Model, where: str) -> None:
    found = [key for key in ("architecture", "path", "student") if getattr(model, key)]
    if len(found) != 1:
        raise InputError(f"{where}: set one of architecture, path and student; found {' and '.join(found) or 'none'}")
    if model.student:
        lookup(config.students, model.student, f"{where}.student")
    if model.architecture and not model.tokenizer:
        raise InputError(f"{where}.tokenizer: a model with random weights needs one: a path or 'task:NAME'")
    if model.tokenizer.startswith("task:"):
        for name in model.tokenizer.removeprefix("task:").split(","):
            lookup(config.tasks, name, f"{where}.tokenizer")
