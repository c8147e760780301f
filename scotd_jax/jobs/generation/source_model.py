"""Loads the local model that generates a set of responses, with the prompt settings of the set."""

from scotd_jax.config import ModelSource
from scotd_jax.hub.hub_files import without_commit
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.local import PromptedModel, load_prompted_model
from scotd_jax.jobs.generation.prompting import source_prompt_settings, uses_chat_template
from scotd_jax.jobs.generation.thinking import IGNORE_THINKING, ThinkingBlocks


def load_source_model(context: RunContext, name: str, spec: ModelSource) -> PromptedModel:
    """Returns the model of config.rationales.NAME on the devices of the data group."""
    where = f"config.rationales.{name}"
    model_name = spec.model.student or without_commit(spec.model.path) or spec.model.architecture
    thinking = IGNORE_THINKING  # models without a chat template generate no thinking blocks on purpose
    if uses_chat_template(context.config, spec.model) or spec.think:
        thinking = ThinkingBlocks.of(spec, where, model_name)
    prompts = source_prompt_settings(context.config, spec, where)
    seed = context.config.seed + spec.seed
    return load_prompted_model(context, model_name, spec.model, "bfloat16", prompts, seed=seed, thinking=thinking)
