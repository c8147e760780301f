"""The update program of a training workload, as a ProgramSpec."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from scotd_jax import config as c
from scotd_jax.distributed.mesh import make_abstract_mesh
from scotd_jax.distributed.sharding import AnyMesh
from scotd_jax.jobs.planning.program_specs import ProgramSpec, abstract_array, build_model
from scotd_jax.jobs.planning.update_buffers import update_buffers
from scotd_jax.jobs.planning.workloads import TrainingWorkload, Workload
from scotd_jax.training import settings_check
from scotd_jax.training.loop import check_batch_size
from scotd_jax.training.options import scans_layers
from scotd_jax.training.programs import training_programs


def training_program(workload: TrainingWorkload, mesh: AnyMesh, platform: str, layers: int = 0) -> ProgramSpec:
    """Returns the program of one update, from the same functions as the train job.

    Args:
      workload: the workload.
      mesh: mesh of described devices, or abstract mesh.
      platform: platform of the devices.
      layers: depth of the model; 0 for the full depth.

    Raises:
      SizesError: if the batch cannot be sharded over the mesh.
      InputError: on training settings that are invalid on every mesh.
    """
    check_batch_size(workload.settings, mesh)
    programs = training_programs(build_model(workload, platform, layers), workload.settings, workload.parts, mesh)
    state = programs.abstract_state
    batch = abstract_batch(workload, workload.settings.batch_size, programs.batch_sharding)
    seed = [jax.ShapeDtypeStruct((), jnp.uint32, sharding=state.step.sharding)] if workload.settings.dropout > 0 else []
    persistent = {"weights": (state.params, state.frozen), "optimizer": state.opt_state}
    buffers = update_buffers(state, scans_layers(workload.settings, platform))
    return ProgramSpec(programs.step, (state, batch, *seed), persistent, buffers)


def check_workload(workload: Workload, platform: str) -> None:
    """Raises InputError on training settings that are invalid on every mesh."""
    if isinstance(workload, TrainingWorkload):
        one_device = make_abstract_mesh(c.Mesh(), 1)  # every batch without micro-batches fits this mesh
        settings = dataclasses.replace(workload.settings, microbatches=1)
        settings_check.check_training(
            workload.names[0], settings, one_device, platform, lambda: build_model(workload, platform).abstract()
        )


def abstract_batch(workload: TrainingWorkload, questions: int, sharding: NamedSharding | None) -> dict[str, Any]:
    """Returns a batch of `questions` questions as training/step.py defines it."""
    P, G, R = workload.prompt_tokens, workload.group_size, workload.response_tokens

    def array(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return abstract_array((questions, *shape), dtype, sharding)

    part = {
        "prompt": array(P),
        "prompt_mask": array(P, dtype=jnp.bool_),
        "inputs": array(G, R),
        "targets": array(G, R),
        "weights": array(G, R, dtype=jnp.float32),
    }
    return {name: part for name, _ in workload.parts}
