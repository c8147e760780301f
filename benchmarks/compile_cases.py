"""What the benchmarks share that compile a training update, often for accelerators that are absent."""

from typing import Any

from scotd_jax import config as c


def update_workload(architecture: str, settings: c.Training, prompt: int, response: int) -> Any:
    """Returns the `TrainingWorkload` of a preset in bfloat16, for the programs of the plan job.

    Args:
      architecture: the preset.
      settings: training settings.
      prompt: padded length of the prompts.
      response: padded length of the responses.
    """
    from scotd_jax.jobs.planning.workloads import TrainingWorkload
    from scotd_jax.models import registry
    from scotd_jax.training.step import ONE_PART

    return TrainingWorkload(
        names=(architecture,),
        config_paths=(),
        model_config=registry.config_for(architecture),
        precision="bfloat16",
        settings=settings,
        parts=ONE_PART,
        prompt_tokens=prompt,
        group_size=settings.group_size,
        response_tokens=response,
        updates=settings.steps,
    )


def compiler_package(topology: str) -> str:
    """Returns the package that compiles for a topology such as "v5e-8" or "h200-8"."""
    return "libtpu" if topology.startswith("v") else "jax-cuda13-pjrt"
