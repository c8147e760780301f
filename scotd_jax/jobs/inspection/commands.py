"""The commands `show-prompts`, `show-examples` and `verify`: they need no accelerator, and write nothing."""

import dataclasses
from collections.abc import Sequence

import jax

from scotd_jax.config import Config, Mesh
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import RunContext, make_context
from scotd_jax.jobs.graph import Step, chain
from scotd_jax.jobs.inspection.integrity import format_verification, verify
from scotd_jax.jobs.inspection.prompts import prompt_views
from scotd_jax.jobs.inspection.responses import response_sets
from scotd_jax.jobs.preparation.config_checks import check_config
from scotd_jax.jobs.preparation.hub_models import pin_models
from scotd_jax.reporting.plain_text import format_prompts, format_response_sets
from scotd_jax.workdir import Workdir


def show_prompts(config: Config, workdir: str | None, count: int) -> str:
    """Returns the prompts of teachers and students for `count` questions each, as text.

    Args:
      config: the config.
      workdir: work directory with responses to train on; None or an empty one shows a placeholder.
      count: number of questions.

    Raises:
      InputError: if a tokenizer or questions cannot be loaded, or nothing is prompted.
    """
    views = prompt_views(cpu_context(config, workdir or "no work directory", chain(config)), count)
    if not views:
        raise InputError("show-prompts: the config generates no rationales and trains and evaluates no student")
    return format_prompts(views)


def show_examples(config: Config, workdir: str, count: int) -> str:
    """Returns `count` responses per bin of every complete set of responses in a work directory, as text.

    Raises:
      InputError: if there is no complete set.
    """
    sets = list(response_sets(cpu_context(config, workdir, ()), count))
    if not sets:
        raise InputError(f"show-examples: {workdir} has no complete set of responses; run it first: --jobs=sample")
    return format_response_sets(sets)


def verify_workdir(workdir: str) -> tuple[str, bool]:
    """Checks all artefacts of a work directory.

    Returns:
      The result as text, and whether nothing is damaged.

    Raises:
      InputError: if there are no artefacts.
    """
    jax.config.update("jax_platforms", "cpu")
    results = verify(workdir)
    return format_verification(results), all(result.state != "damaged" for result in results)


def cpu_context(config: Config, workdir: str, steps: Sequence[Step]) -> RunContext:
    """Returns a context that uses the CPU instead of the config's mesh, with the models that the steps read pinned."""
    jax.config.update("jax_platforms", "cpu")
    check_config(config)
    directory = Workdir(workdir, writes=False)
    return make_context(dataclasses.replace(pin_models(config, directory, steps), mesh=Mesh()), directory)
