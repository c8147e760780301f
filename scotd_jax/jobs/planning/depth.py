"""Extrapolation over depth: costs of a deep model from those of two shallow ones.

All layers of a stack have the same costs, so costs grow linearly with depth. The difference between the two shallow
models gives the cost per layer, which is added for every remaining layer.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scotd_jax.jobs.planning.workloads import TrainingWorkload, Workload

LAYER_FIELDS = ("num_hidden_layers", "num_layers", "num_decoder_layers")  # in model configs
Costs = Mapping[str, float | int]


def num_layers(model_config: Any) -> int:
    """Returns the number of layers; for an encoder-decoder, the number of encoder layers."""
    return next(getattr(model_config, name) for name in LAYER_FIELDS if hasattr(model_config, name))


def with_layers(model_config: Any, layers: int) -> Any:
    """Returns the config with `layers` layers, and decoder layers in proportion to the encoder layers."""
    full = num_layers(model_config)
    if layers == full:
        return model_config
    stacks = {name: count * layers // full for name, count in _stacks(model_config).items()}
    return dataclasses.replace(model_config, **stacks)


def shallow_depths(model_config: Any, maximum: int = 0) -> tuple[int, ...]:
    """Returns the depths of two models from which a deeper one is extrapolated.

    Every stack must have a whole number of layers: with 2 decoder layers per 6 encoder layers, depths are multiples of
    3.

    Args:
      model_config: the full model.
      maximum: approximate depth of the second model.

    Returns:
      Two depths, or only the full depth if the second model would not be shallower.
    """
    full = num_layers(model_config)
    step = full // math.gcd(*_stacks(model_config).values())
    steps = max(2, maximum // step)
    return (steps // 2 * step, steps * step) if steps * step < full else (full,)


def measured_depths(workload: Workload, maximum: int = 0) -> tuple[int, ...]:
    """Returns the depths at which to measure a workload: those of `shallow_depths`, or the full depth.

    Patterns of trainable parameters may name layers, so such a workload is measured at full depth.
    """
    if isinstance(workload, TrainingWorkload) and (workload.settings.freeze or workload.settings.lora.rank):
        return (num_layers(workload.model_config),)
    return shallow_depths(workload.model_config, maximum)


def extrapolate(full: int, depths: Sequence[int], costs: Sequence[Costs]) -> dict[str, float | int]:
    """Returns the costs at depth `full` from those at one or two depths. Costs never decrease with depth."""
    if len(depths) == 1:
        return dict(costs[0])
    first, second = costs
    remaining, measured = full - depths[1], depths[1] - depths[0]
    return {key: second[key] + max(0, second[key] - first[key]) * remaining / measured for key in second}


def extrapolate_costs(workload: Workload, measure: Callable[[int], Costs]) -> dict[str, float | int]:
    """Returns costs at full depth from `measure(depth)`."""
    full, depths = num_layers(workload.model_config), measured_depths(workload)
    return extrapolate(full, depths, [measure(depth) for depth in depths])


def extrapolate_programs(
    workload: Workload, measure: Callable[[int], Mapping[str, Costs]]
) -> dict[str, dict[str, float | int]]:
    """Returns costs at full depth like `extrapolate_costs`, for several programs: {program: costs}."""
    full, depths = num_layers(workload.model_config), measured_depths(workload)
    results = [measure(depth) for depth in depths]
    return {name: extrapolate(full, depths, [costs[name] for costs in results]) for name in results[0]}


def _stacks(model_config: Any) -> dict[str, int]:
    """Layers of each stack by config field."""
    fields = [field.name for field in dataclasses.fields(model_config) if field.name in LAYER_FIELDS]
    return {name: getattr(model_config, name) for name in fields if getattr(model_config, name) is not None}
