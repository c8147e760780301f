"""Translates the names of stored tensors into those of the weight maps.

Flax's modules name their parameters in another way than PyTorch's, and their linear layers are [in, out]. No PyTorch
tensor of a supported model has a name that this translation changes, so it applies to files of any format: Flax models
were also published as safetensors.
"""

from typing import NamedTuple

_FLAX = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


class TensorName(NamedTuple):
    """The name of a tensor in the weight maps, and whether the file holds it transposed."""

    name: str
    transposed: bool


def translate(key: str, kind: str) -> TensorName:
    """Returns the name of the tensor that is stored as `key` in a file of a model of this kind."""
    *modules, last = key.replace("/", ".").split(".")
    name = ".".join([*modules, _FLAX.get(last, last)])
    if kind == "opt" and name.startswith("decoder."):
        name = f"model.{name}"  # saved from the model without its language-model head
    return TensorName(name, last == "kernel")
