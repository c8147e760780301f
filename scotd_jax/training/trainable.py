"""Which numbers learn: all parameters, those that no pattern freezes, or thin matrices in place of kernels (LoRA).

Training holds two trees. The *trainable* one is what gradients are taken of and what the optimizer keeps moments for;
the *frozen* one is only read. `split` makes them of a model's parameters, `combine` makes the parameters of them with
which a model is called. Where everything learns there is no frozen tree, and the trainable one is the parameters.

LoRA (Hu et al., arXiv 2106.09685): for a target kernel W[D, F] the trainable tree holds `kernel/A`, float32[D, rank],
and `kernel/B`, float32[rank, F], and the frozen tree holds `kernel/base`, which is W, and `kernel/scale`, float32[],
which is alpha / rank. Together they are W + scale * A @ B. So two trees say all that is needed to combine them.

What this saves: the moments of everything that is frozen, and its gradients between micro-batches. A frozen
parameter's gradient is not computed at all. What LoRA does not save: the backward pass computes the derivative of each
whole combined kernel before it becomes those of A and B, and the combined kernel exists beside its base.
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


def split(
    params: Params, freeze: Names = (), lora: LoRA = NO_LORA, key: jax.Array | None = None
) -> tuple[Params, Params | None]:
    """(trainable, frozen), both nested dicts like `params`, which may be abstract if `jax.eval_shape` calls this.

    Patterns fit whole paths ("layers/0/attn/q/kernel"). With LoRA only the targets' thin matrices learn, `freeze`
    takes kernels out of the targets, and `key` is needed: A is normal with variance 1 / D, drawn from the key and the
    parameter's path alone, and B is zero, so that training starts from the parameters as they are.
    Raises InputError on a pattern that fits no parameter, patterns that leave nothing to learn, a target that is no
    matrix, and a rank beyond one of its sides.
    """
    flat = flatten_dict(params, sep="/")
    stay = _matching(flat, freeze, "training.freeze")
    if lora.rank < 0:
        raise InputError(f"training.lora.rank: expected 0 (off) or more, found {lora.rank}")
    if lora.rank == 0:
        if len(stay) == len(flat):
            raise InputError(f"training.freeze: {_quoted(freeze)} leave nothing to learn; there are {_some(flat)}")
        learn = {name: leaf for name, leaf in flat.items() if name not in stay}
        return _nested(learn), _nested({name: flat[name] for name in stay}) if stay else None
    targets = [name for name in _matching(flat, lora.targets, "training.lora.targets") if name not in stay]
    _check_lora(flat, lora, targets, freeze)
    frozen, learn = dict(flat), {}
    for name in targets:
        kernel = frozen.pop(name)
        own = jax.random.fold_in(key, zlib.crc32(f"{name}/A".encode()))
        rows, columns = kernel.shape
        learn[f"{name}/A"] = jax.random.normal(own, (rows, lora.rank), jnp.float32) * rows**-0.5
        learn[f"{name}/B"] = jnp.zeros((lora.rank, columns), jnp.float32)
        frozen |= {f"{name}/base": kernel, f"{name}/scale": jnp.float32(lora.alpha / lora.rank)}
    return _nested(learn), _nested(frozen)


def combine(trainable: Params, frozen: Params | None) -> Params:
    """The parameters of a model. Arrays of one tree are passed on as they are; only LoRA's kernels are computed."""
    if frozen is None:
        return trainable
    flat = flatten_dict(trainable, sep="/") | flatten_dict(frozen, sep="/")
    for name in [name.removesuffix("/A") for name in flat if name.endswith("/A")]:
        base, scale, a, b = (flat.pop(f"{name}/{part}") for part in ("base", "scale", "A", "B"))
        # A thin product costs little, and as an accelerator's default it would be rounded to bfloat16.
        flat[name] = base + scale * jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return _nested(flat)


def shardings(tree: Params | None, places: Params) -> Params | None:
    """Where the leaves of one of the two trees lie, given where the parameters lie.

    A parameter lies where it would lie; A is split as its kernel's input axis is, B as its output axis is.
    """
    if tree is None:
        return None
    known = flatten_dict(places, sep="/")

    def place(name: str) -> jax.sharding.Sharding:
        parent, _, part = name.rpartition("/")
        whole = known.get(name) or known[parent]
        if name in known or part == "base" or not isinstance(whole, NamedSharding):
            return whole
        rows, columns = (*whole.spec, None, None)[:2]
        spec = {"A": (rows, None), "B": (None, columns), "scale": ()}[part]
        return NamedSharding(whole.mesh, PartitionSpec(*spec))

    return _nested({name: place(name) for name in flatten_dict(tree, sep="/")})


def summary(params: Params, freeze: Names, lora: LoRA) -> str:
    """What learns, for people; "" where everything does. Raises as `split` does. `params` may be abstract."""
    learns, frozen = jax.eval_shape(lambda p, k: split(p, freeze, lora, k), params, jax.random.key(0))
    if frozen is None:
        return ""
    named = [f"LoRA of rank {lora.rank}, alpha {lora.alpha:g}"] if lora.rank else []
    named += [f"all but {', '.join(freeze)}"] if freeze else []
    return f"{'; '.join(named)}: {count(learns):,} of {count(params):,} numbers"


def count(tree: Any) -> int:
    """Numbers in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _matching(flat: Mapping[str, Any], patterns: Sequence[str], where: str) -> dict[str, None]:
    """The names that a pattern fits, in the order of `flat`."""
    found: set[str] = set()
    for pattern in patterns:
        try:
            fits = {name for name in flat if re.fullmatch(pattern, name)}
        except re.error as error:
            raise InputError(f"{where}: {pattern!r} is not a regular expression ({error})") from None
        if not fits:
            near = nearest(pattern, flat, cutoff=0.4)
            hint = f"did you mean {near!r}? There" if near else "there"
            raise InputError(f"{where}: {pattern!r} fits no parameter, as a whole path; {hint} are {_some(flat)}")
        found |= fits
    return {name: None for name in flat if name in found}


def _check_lora(flat: Mapping[str, Any], lora: LoRA, targets: Sequence[str], freeze: Names) -> None:
    if not targets:
        without = f" without those that training.freeze {_quoted(freeze)} takes out" if freeze else ""
        raise InputError(
            f"training.lora.targets: {_quoted(lora.targets)}{without} leave nothing to learn; there are {_some(flat)}"
        )
    for name in targets:
        shape = flat[name].shape
        if len(shape) != 2:
            raise InputError(
                f"training.lora.targets: {name} is no matrix, its shape is {list(shape)}; "
                'let the patterns end in "/kernel"'
            )
        if lora.rank > min(shape):
            raise InputError(
                f"training.lora.rank: {lora.rank} is more than a side of {name}, {list(shape)}; a rank below "
                f"{min(shape)} makes thin matrices of it"
            )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _some(flat: Mapping[str, Any], most: int = 6) -> str:
    """A few names spread over all of them."""
    names = list(flat)
    step = max(1, len(names) // most)
    return ", ".join(names[::step][:most]) + (", ..." if len(names) > most else "")


def _nested(flat: Mapping[str, Any]) -> Params:
    return unflatten_dict(dict(flat), sep="/")
