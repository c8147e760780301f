"""What an update makes that is as large as parameters, where all of them learn and where some do (trainable.py)."""

from typing import Any

from flax.traverse_util import flatten_dict

from scotd_jax.training.step import TrainState


def made(state: TrainState, rolled: bool) -> dict[str, Any]:
    """Trees of placed shapes: what "learns", and which gradients micro-batches add up; the kernels that LoRA makes of
    their bases, "combined"; and what derivatives are computed of, "derived".

    Those are whole kernels also where thin matrices learn. Where layers are rolled, all of them go the same way, so
    that frozen ones have derivatives too.
    """
    frozen = flatten_dict(state.frozen or {}, sep="/")
    combined = {name: leaf for name, leaf in frozen.items() if name.endswith("/base")}
    alike = {name: leaf for name, leaf in frozen.items() if rolled and "layers" in name.split("/")}
    return {"learns": state.params, "combined": combined, "derived": (state.params, combined | alike)}
