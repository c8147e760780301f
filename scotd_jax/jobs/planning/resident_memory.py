"""Memory that is in use while a generation workload runs, besides the arguments of its programs."""

from typing import Any

import jax

from scotd_jax import config as c
from scotd_jax.distributed import sharding
from scotd_jax.distributed.mesh import make_abstract_mesh, most_sharded
from scotd_jax.distributed.topologies import Topology
from scotd_jax.jobs.planning.depth import Costs, extrapolate_costs
from scotd_jax.jobs.planning.estimates import MEMORY_PARTS, ProgramCost
from scotd_jax.jobs.planning.program_specs import build_model, bytes_per_device, with_shardings
from scotd_jax.jobs.planning.training_program import training_program
from scotd_jax.jobs.planning.workloads import GenerationWorkload, TrainingWorkload, Workload
from scotd_jax.sampling.decode_loop import cast_for_inference


def paused_training_bytes(workload: Workload, sizes: c.Mesh, topology: Topology) -> int:
    """Returns the bytes per chip of the state of a paused training, without arrays that dev evaluation reads.

    With LoRA this includes the unmerged parameters, since dev evaluation uses a merged copy.
    """
    if isinstance(workload, TrainingWorkload) or not workload.paused_training:
        return 0
    training = TrainingWorkload(
        names=workload.names,
        config_paths=(),
        model_config=workload.model_config,
        precision=workload.precision,
        settings=workload.paused_training,
        parts=(("train", 1.0),),
        prompt_tokens=8,  # the state does not depend on the shapes of batches
        group_size=1,
        response_tokens=8,
        updates=1,
    )
    mesh, platform = make_abstract_mesh(sizes, topology.chips), topology.chip.platform

    def measure(layers: int) -> Costs:
        state = training_program(training, mesh, platform, layers).persistent
        model = build_model(workload, platform, layers)
        abstract = model.abstract()
        params = with_shardings(abstract, sharding.param_shardings(mesh, model.axes(), abstract))
        # On one host, dev evaluation shares the parameters that need no cast with training.
        not_shared = params if topology.hosts > 1 else _cast_parameters(workload, params)
        unmerged = state["weights"] if workload.paused_training.lora.rank else ()
        return {"bytes": bytes_per_device([not_shared, state["optimizer"]]) + bytes_per_device(unmerged)}

    return round(extrapolate_costs(training, measure)["bytes"])


def loading_cost(workload: GenerationWorkload, mesh: Any, sizes: c.Mesh, topology: Topology) -> ProgramCost:
    """Returns the memory at the moment when the weights exist both as loaded and as used for inference.

    Args:
      workload: the workload.
      mesh: mesh on which the workload generates.
      sizes: mesh of the whole run, which shards the loaded weights if it splits them more.
      topology: the topology.
    """
    platform, run_mesh = topology.chip.platform, make_abstract_mesh(sizes, topology.chips)

    def measure(layers: int) -> Costs:
        model = build_model(workload, platform, layers)
        abstract = model.abstract()
        inference = jax.eval_shape(lambda params: cast_for_inference(model, params), abstract)
        weights = with_shardings(inference, sharding.param_shardings(mesh, model.axes(), inference))
        loaded = with_shardings(
            inference if workload.loads_inference_dtype else abstract,
            sharding.param_shardings(most_sharded(mesh, run_mesh), model.axes(), abstract),
        )
        if topology.hosts == 1:  # arrays that need no cast are not copied
            loaded = [] if workload.loads_inference_dtype else _cast_parameters(workload, loaded)
        return {"weights": bytes_per_device(weights), "resident": bytes_per_device(loaded)}

    costs = extrapolate_costs(workload, measure)
    memory = dict.fromkeys(MEMORY_PARTS, 0) | {part: round(size) for part, size in costs.items()}
    return ProgramCost("load", memory, 0.0)


def _cast_parameters(workload: Workload, params: Any) -> list[Any]:
    """The parameters that `cast_for_inference` copies into the compute dtype."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [leaf for path, leaf in leaves if path[-1].key == "kernel" and workload.precision != "float32"]
