"""Trainable parameters: all parameters, those that no pattern freezes, or low-rank matrices for some kernels (LoRA).

Training holds two trees. Gradients and optimizer moments exist for the *trainable* tree; the *frozen* tree is only
read. `partition` makes both from model parameters, `combine` makes model parameters from both. If everything is
trainable, there is no frozen tree, and the trainable tree is the model parameters.

LoRA (Hu et al., arXiv 2106.09685): for a target kernel W[D, F] the trainable tree holds `kernel/A`, float32[D, rank],
and `kernel/B`, float32[rank, F], and the frozen tree holds `kernel/base`, which is W, and `kernel/scale`, float32[],
which is alpha / rank. Combined they are W + scale * A @ B.

Frozen parameters have no optimizer moments and no gradients to accumulate over micro-batches. Their gradients are not
computed, with one exception: LoRA computes the gradient of a whole combined kernel before those of A and B. Its
backward pass therefore saves no memory, and each combined kernel exists in addition to its base.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from scotd_jax.config import LoRA, Names
from scotd_jax.errors import InputError, nearest
from scotd_jax.models.api import Params

NO_LORA = LoRA()


def partition(
    params: Params, freeze: Names = (), lora: LoRA = NO_LORA, key: jax.Array | None = None
) -> tuple[Params, Params | None]:
    """Splits model parameters into trainable and frozen ones.

    Patterns are regular expressions that match whole paths ("layers/0/attn/q/kernel"). With LoRA only the low-rank
    matrices of the targets are trainable, and `freeze` removes kernels from the targets. A is normal with variance
    1 / D, drawn from the key and the path of the parameter alone; B is zero, so that training starts from the
    parameters as they are.

    Args:
      params: model parameters; abstract ones inside `jax.eval_shape`.
      freeze: patterns of the parameters to freeze.
      lora: LoRA settings; rank 0 disables it.
      key: key for the matrices A; needed with LoRA.

    Returns:
      The trainable tree and the frozen tree, both nested like `params`; the frozen tree is None if nothing is frozen.

    Raises:
      InputError: if a pattern matches no parameter, nothing is trainable, a target is not a matrix, or the rank exceeds
        one of its sides.
    """
    flat = _flat(params)
    frozen_names = _matching(flat, freeze, "training.freeze")
    if lora.rank < 0:
        raise InputError(f"training.lora.rank: expected 0 (off) or more, found {lora.rank}")
    if lora.rank == 0:
        if len(frozen_names) == len(flat):
            raise InputError(
                f"training.freeze: {_quoted(freeze)} leave no trainable parameters; there are {_example_names(flat)}"
            )
        trainable = {name: leaf for name, leaf in flat.items() if name not in frozen_names}
        frozen = {name: flat[name] for name in frozen_names}
        return _nested(trainable), _nested(frozen) if frozen else None
    targets = [name for name in _matching(flat, lora.targets, "training.lora.targets") if name not in frozen_names]
    _check_lora(flat, lora, targets, freeze)
    frozen, trainable = dict(flat), {}
    assert key is not None, "LoRA needs a key"
    for name in targets:
        kernel = frozen.pop(name)
        kernel_key = jax.random.fold_in(key, zlib.crc32(f"{name}/A".encode()))
        rows, columns = kernel.shape
        trainable[f"{name}/A"] = jax.random.normal(kernel_key, (rows, lora.rank), jnp.float32) * rows**-0.5
        trainable[f"{name}/B"] = jnp.zeros((lora.rank, columns), jnp.float32)
        frozen |= {f"{name}/base": kernel, f"{name}/scale": jnp.float32(lora.alpha / lora.rank)}
    return _nested(trainable), _nested(frozen)


def combine(trainable: Params, frozen: Params | None) -> Params:
    """Inverse of `partition`: returns the model parameters. Computes LoRA kernels and passes other arrays through."""
    if frozen is None:
        return trainable
    flat = _flat(trainable) | _flat(frozen)
    for name in [name.removesuffix("/A") for name in flat if name.endswith("/A")]:
        base, scale, a, b = (flat.pop(f"{name}/{part}") for part in ("base", "scale", "A", "B"))
        # A low-rank matmul is cheap, and at the default precision accelerators would round it to bfloat16.
        flat[name] = base + scale * jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return _nested(flat)


def partition_shardings(tree: Params | None, param_shardings: Params) -> Params | None:
    """Shardings of the trainable or the frozen tree.

    Parameters keep their sharding; A is sharded like the input axis of its kernel, B like the output axis.

    Args:
      tree: one of the trees of `partition`.
      param_shardings: shardings of the model parameters.
    """
    if tree is None:
        return None
    known = _flat(param_shardings)

    def sharding(name: str) -> jax.sharding.Sharding:
        kernel_name, _, part = name.rpartition("/")
        full = known.get(name) or known[kernel_name]
        if name in known or part == "base" or not isinstance(full, NamedSharding):
            return full
        rows, columns = (*full.spec, None, None)[:2]
        spec = {"A": (rows, None), "B": (None, columns), "scale": ()}[part]
        return NamedSharding(full.mesh, PartitionSpec(*spec))

    return _nested({name: sharding(name) for name in _flat(tree)})


def describe_trainable(params: Params, freeze: Names, lora: LoRA) -> str:
    """Describes the trainable parameters, for example "1,312 of 125,239,296 (0.001 %), LoRA of rank 8, alpha 16".

    Args:
      params: model parameters, possibly abstract.
      freeze: patterns of frozen parameters.
      lora: LoRA settings.

    Returns:
      The description, or "" if all parameters are trainable.

    Raises:
      InputError: as `partition` does.
    """
    trainable, frozen = jax.eval_shape(lambda p, k: partition(p, freeze, lora, k), params, jax.random.key(0))
    if frozen is None:
        return ""
    trained, total = num_params(trainable), num_params(params)
    description = f"{trained:,} of {total:,} ({100 * trained / total:.3g} %)"
    if lora.rank:
        description += f", LoRA of rank {lora.rank}, alpha {lora.alpha:g}"
    if freeze:
        description += f", frozen: {', '.join(freeze)}"
    return description


def num_params(tree: Any) -> int:
    """Number of entries of all arrays of a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _matching(flat: Mapping[str, Any], patterns: Sequence[str], where: str) -> dict[str, None]:
    """The names that match one of the patterns, in the order of `flat`."""
    found: set[str] = set()
    for pattern in patterns:
        try:
            matches = {name for name in flat if re.fullmatch(pattern, name)}
        except re.error as error:
            raise InputError(f"{where}: {pattern!r} is not a regular expression ({error})") from None
        if not matches:
            near = nearest(pattern, flat, cutoff=0.4)
            hint = f"did you mean {near!r}? There" if near else "there"
            raise InputError(
                f"{where}: {pattern!r} matches no parameter, as a whole path; {hint} are {_example_names(flat)}"
            )
        found |= matches
    return {name: None for name in flat if name in found}


def _check_lora(flat: Mapping[str, Any], lora: LoRA, targets: Sequence[str], freeze: Names) -> None:
    if not targets:
        without = f" without those that training.freeze {_quoted(freeze)} removes" if freeze else ""
        raise InputError(
            f"training.lora.targets: {_quoted(lora.targets)}{without} leave no trainable parameters; there are "
            f"{_example_names(flat)}"
        )
    for name in targets:
        shape = flat[name].shape
        if len(shape) != 2:
            raise InputError(
                f"training.lora.targets: {name} is not a matrix, its shape is {list(shape)}; "
                'let the patterns end in "/kernel"'
            )
        if lora.rank > min(shape):
            raise InputError(
                f"training.lora.rank: {lora.rank} exceeds a side of {name}, {list(shape)}; set a rank below "
                f"{min(shape)}"
            )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _example_names(flat: Mapping[str, Any], most: int = 6) -> str:
    """A few names, spread over all of them."""
    names = list(flat)
    step = max(1, len(names) // most)
    return ", ".join(names[::step][:most]) + (", ..." if len(names) > most else "")


def _flat(tree: Params) -> dict[str, Any]:
    return dict(flatten_dict(tree, sep="/"))


def _nested(flat: Mapping[str, Any]) -> Params:
    return unflatten_dict(dict(flat), sep="/")
