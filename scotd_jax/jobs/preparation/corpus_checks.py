"""Checks of a corpus' config, before any step starts."""

import math

from scotd_jax.config import Config, GeneratedSource
from scotd_jax.errors import InputError, list_names, lookup
from scotd_jax.jobs.generation.prompting import corpus_question_sets
from scotd_jax.rationales.selections import SELECTIONS, STUDENT_SELECTIONS
from scotd_jax.tasks import recipes
from scotd_jax.tasks.question_sets import QuestionSet


def check_corpus(config: Config, name: str, where: str) -> None:
    """Checks the references of a corpus, its mixture and its selection. `where` is its config path.

    Raises:
      InputError: if a reference is not defined, or a setting has no effect or cannot be met.
    """
    corpus = config.corpora[name]
    for source in corpus.rationales:
        lookup(config.rationales, source, f"{where}.rationales")
    if not corpus.rationales and not corpus.questions:
        raise InputError(f"{where}: needs rationales, or questions with a recipe such as 'label'")
    _check_mixture(config, name, f"{where}.mixture")
    _check_selection(config, name, where)
    recipe = recipes.find(corpus.recipe, config.recipes, f"{where}.recipe")
    if not corpus.rationales and recipes.uses_fields(recipe, *recipes.RESPONSE_FIELDS):
        raise InputError(
            f"{where}.rationales: recipe {corpus.recipe!r} uses responses; list the sets of responses here"
        )
    if corpus.max_responses and not corpus.rationales:
        raise InputError(
            f"{where}.max_responses: the corpus has no rationales, so there is nothing to select; remove it, or set "
            "limit of the task"
        )


def _check_selection(config: Config, name: str, where: str) -> None:
    corpus = config.corpora[name]
    lookup(SELECTIONS | STUDENT_SELECTIONS, corpus.cap_by, f"{where}.cap_by")
    _check_scorer(config, name, where)
    if corpus.cap and not corpus.rationales:
        raise InputError(f"{where}.cap: the corpus has no rationales, so there is nothing to select; remove it")
    sources = [config.rationales[source] for source in corpus.rationales]
    if corpus.cap and all(isinstance(source, GeneratedSource) for source in sources):
        total = sum(source.sampling.n for source in sources if isinstance(source, GeneratedSource))
        if corpus.cap > (most := min(total, corpus.n or total)):
            raise InputError(
                f"{where}.cap: {corpus.cap} would select nothing, as no question has more than {most} responses; lower "
                "it, or raise sampling.n (and n) of its rationales"
            )


def _check_scorer(config: Config, name: str, where: str) -> None:
    corpus = config.corpora[name]
    if corpus.cap_by in STUDENT_SELECTIONS and not corpus.scored_by:
        raise InputError(
            f"{where}.scored_by: cap_by={corpus.cap_by!r} compares scores under a student; name the student, for "
            "example one that trains on one response per question"
        )
    if not corpus.scored_by:
        return
    if corpus.cap_by not in STUDENT_SELECTIONS:
        raise InputError(
            f"{where}.scored_by: cap_by={corpus.cap_by!r} compares no scores under a student; remove it, or set cap_by "
            f"to one of {list_names(STUDENT_SELECTIONS)}"
        )
    student = lookup(config.students, corpus.scored_by, f"{where}.scored_by")
    own = lookup(config.corpora, student.corpus, f"config.students.{corpus.scored_by}.corpus")
    if not recipes.generates_rationale(recipes.find(own.recipe, config.recipes, f"{where}.scored_by")):
        raise InputError(
            f"{where}.scored_by: student {corpus.scored_by!r} trains on recipe {own.recipe!r}, which has no rationale "
            "before the answer; choose a student of a recipe such as 'scotd'"
        )


def _check_mixture(config: Config, name: str, where: str) -> None:
    mixture = config.corpora[name].mixture
    tasks = {QuestionSet.parse(set_name).task for set_name in corpus_question_sets(config, name)}
    if mixture and (unequal := sorted(tasks ^ set(mixture))):
        raise InputError(
            f"{where}: expected a share for each task of the corpus, {list_names(sorted(tasks))}, but "
            f"{unequal[0]!r} is {'not one of them' if unequal[0] in mixture else 'missing'}"
        )
    for task, share in mixture.items():
        if not 0 < share < math.inf:
            raise InputError(f"{where}.{task}: expected a share above 0, found {share}")
