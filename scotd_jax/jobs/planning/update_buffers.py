"""Buffers that an update allocates for gradients and merged LoRA kernels."""

from typing import Any

from flax.traverse_util import flatten_dict

from scotd_jax.training.step import TrainState


def update_buffers(state: TrainState, scan_layers: bool) -> dict[str, Any]:
    """Returns trees of abstract arrays by name.

    Args:
      state: abstract training state.
      scan_layers: whether the update scans over layers.

    Returns:
      "trainable": the shapes of the gradients that micro-batches accumulate. "merged": the kernels that LoRA merges
      from a base and its low-rank matrices. "gradients": the shapes of all gradients. These include the merged kernels
      and, with a scan over layers, frozen layers, because all layers share one program.
    """
    frozen = flatten_dict(state.frozen or {}, sep="/")
    merged = {name: leaf for name, leaf in frozen.items() if name.endswith("/base")}
    scanned = {name: leaf for name, leaf in frozen.items() if scan_layers and "layers" in name.split("/")}
    return {"trainable": state.params, "merged": merged, "gradients": (state.params, merged | scanned)}
