"""Checks of the settings of faithfulness: changes of rationales, right rationales, and the simulator."""

from typing import get_args

from scotd_jax.config import Config, RationaleControl
from scotd_jax.config.eval_specs import eval_specs, probes_rationales
from scotd_jax.errors import InputError, lookup
from scotd_jax.jobs.generation.prompting import corpus_recipe
from scotd_jax.tasks import recipes
from scotd_jax.tasks.question_sets import covers

_WHERE = "config.evaluation"


def check_faithfulness(config: Config) -> None:
    """Checks the settings of `Evaluation` that are about faithfulness, in a config whose other parts are valid.

    Raises:
      InputError: on an unknown change, set of responses or student, if no evaluation compares choices, if right
        rationales are missing for a set, or if the simulator has no rationale in its prompts.
    """
    settings = config.evaluation
    changes = [control for control in get_args(RationaleControl) if control != "own"]
    for kind in settings.interventions:
        lookup(dict.fromkeys(changes), kind, f"{_WHERE}.interventions")
    probed = [spec for spec in eval_specs(config).values() if probes_rationales(spec)]
    for key in ("interventions", "oracle_from", "simulator"):
        if getattr(settings, key) and not probed:
            raise InputError(
                f"{_WHERE}.{key}: compares choices after rationales, but no evaluation of a trained student does; set "
                f"{_WHERE}.read='both'"
            )
    sources = [lookup(config.rationales, name, f"{_WHERE}.oracle_from") for name in settings.oracle_from]
    for set_name in (name for spec in probed for name in spec.eval_sets):
        if sources and not any(covers(source.questions, set_name) for source in sources):
            raise InputError(
                f"{_WHERE}.oracle_from: no set of responses there has {set_name!r} in its questions; add one that does"
            )
    if settings.simulator:
        corpus = lookup(config.students, settings.simulator, f"{_WHERE}.simulator").corpus
        if not recipes.needs_rationale(corpus_recipe(config, corpus)):
            raise InputError(
                f"{_WHERE}.simulator: student {settings.simulator!r} has no rationale in its prompts; name one whose "
                "recipe reads rationales, such as 'infer'"
            )
