"""Checks of the relations between the parts of a config, before any step starts."""

from scotd_jax.artefact import is_folder_name
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
from scotd_jax.config.compared_arms import check_claims, check_seeds, compared_arms
from scotd_jax.config.eval_specs import eval_specs, has_local_model
from scotd_jax.config.references import TASK_TOKENIZER_PREFIX
from scotd_jax.errors import InputError, did_you_mean, lookup
from scotd_jax.hub.hub_files import is_repository
from scotd_jax.jobs.generation.prompting import source_prompt_settings
from scotd_jax.jobs.preparation.corpus_checks import check_corpus
from scotd_jax.jobs.preparation.faithfulness_checks import check_faithfulness
from scotd_jax.tasks import recipes
from scotd_jax.tasks.question_sets import QuestionSet, covers


def check_config(config: Config) -> None:
    """Checks the relations between the parts of a config; the schema checks single values.

    Raises:
      InputError: if a reference is not defined, a required value is missing, checkpoints would be chosen on a reported
        set, or the runs or comparisons of arms are ambiguous.
    """
    for section in ("rationales", "corpora", "students", "evals"):
        for name in getattr(config, section):
            if not is_folder_name(name):
                raise InputError(
                    f"config.{section}: the name {name!r:.80} becomes a folder; use letters, digits, '.', '_' and '-', "
                    "and do not begin with '.'"
                )
    for name, source in config.rationales.items():
        _check_rationales(config, source, f"config.rationales.{name}")
    for name in config.corpora:
        _check_sets(config, config.corpora[name].questions, f"config.corpora.{name}.questions")
        check_corpus(config, name, f"config.corpora.{name}")
    for name, student in config.students.items():
        _check_student(config, student, f"config.students.{name}")
    for name, spec in eval_specs(config).items():
        _check_eval(config, spec, f"config.{'evals' if name in config.evals else 'students'}.{name}")
    check_faithfulness(config)
    check_seeds(config)
    compared_arms(config)
    check_claims(config)
    for name in config.corpora:
        if not any(student.corpus == name for student in config.students.values()):
            raise InputError(f"config.corpora.{name}: no student trains on it, so there is no tokenizer to encode it")
    for name in config.columns:
        lookup(eval_specs(config), name, "config.columns")
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
        if source.failed_in:
            _check_round(config, source, where)


def _check_round(config: Config, source: GeneratedSource, where: str) -> None:
    """Checks a source that answers only the questions that another set fails on."""
    attempts = lookup(config.rationales, source.failed_in, f"{where}.failed_in")
    if missing := [name for name in source.questions if not covers(attempts.questions, name)]:
        raise InputError(
            f"{where}.failed_in: {source.failed_in!r} does not answer {missing[0]!r}, so all of its questions would "
            f"count as failed; add it to config.rationales.{source.failed_in}.questions"
        )
    for name, other in config.rationales.items():
        is_same = isinstance(other, GeneratedSource) and _sampled_from(other) == _sampled_from(source)
        if is_same and other is not source and set(other.questions) & set(source.questions):
            raise InputError(
                f"{where}.seed: the same model with the same seed answers these questions in config.rationales.{name}, "
                "so its samples would be repeated; set another seed"
            )


def _sampled_from(source: GeneratedSource) -> tuple[object, int, int]:
    """What determines the random samples of a source."""
    model = source.model if isinstance(source, ModelSource) else source.server
    return model, source.few_shot, source.seed


def _student_recipe(config: Config, source: RationaleSource) -> str:
    """The recipe of the sampled student, or the default recipe for other models."""
    if not isinstance(source, ModelSource) or not source.model.student:
        return "scotd"
    student = config.students[source.model.student]
    return lookup(config.corpora, student.corpus, f"config.students.{source.model.student}.corpus").recipe


def _check_student(config: Config, student: Student, where: str) -> None:
    corpus = lookup(config.corpora, student.corpus, f"{where}.corpus")
    _check_model(config, student.model, f"{where}.model")
    _check_sets(config, student.dev_sets, f"{where}.dev_sets")
    for source in student.rationales_from:
        lookup(config.rationales, source, f"{where}.rationales_from")
    if student.training.curriculum and not corpus.rationales:
        raise InputError(
            f"{where}.training.curriculum: compares the responses of the corpus, and {student.corpus!r} has none; "
            "remove it, or list rationales in the corpus"
        )
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
    if overlap := [name for name in student.dev_sets if name in spec.eval_sets]:
        raise InputError(
            f"{where}: {overlap[0]!r} is in dev_sets and in eval_sets; a reported set may not choose the checkpoint"
        )


def _check_scored_responses(config: Config, spec: EvalSpec, where: str) -> None:
    source = lookup(config.rationales, spec.responses, f"{where}.responses")
    unused = ("student", "rationales_from", "rationale_control", "few_shot", "combine", "checkpoint")
    _check_unused(spec, unused, where, "a set of responses")
    if isinstance(source, GeneratedSource) and spec.n > source.sampling.n:
        raise InputError(f"{where}.n: {spec.n} of the responses of {spec.responses!r}, which has {source.sampling.n}")
    if missing := [name for name in spec.eval_sets if not covers(source.questions, name)]:
        raise InputError(
            f"{where}.eval_sets: {missing[0]!r} is not in config.rationales.{spec.responses}.questions; add it there"
        )


def _check_choices(config: Config, spec: EvalSpec, where: str) -> None:
    """Checks that the likelihoods of choices can be computed, after a rationale or at once."""
    key = f"{where}.read" if where.startswith("config.evals.") else f"config.evaluation.read: for {where}"
    if spec.combine == "marginal":
        raise InputError(f"{key}: combine='marginal' compares the choices already; remove one of the two")
    if not has_local_model(config, spec):
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
            f"{where}: {name!r} is not a step with files to push; {did_you_mean(name, pushable)} (a set of responses "
            "needs a release, and a student export=True)"
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
    if model.tokenizer.startswith(TASK_TOKENIZER_PREFIX):
        for name in model.tokenizer.removeprefix(TASK_TOKENIZER_PREFIX).split(","):
            lookup(config.tasks, name, f"{where}.tokenizer")
