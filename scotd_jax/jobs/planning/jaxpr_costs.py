"""Matmul FLOPs and memory of programs, counted on their jaxprs: exact for any model and option, without compiling.

FLOPs include recomputation and padding, with 2 FLOPs per multiply-add. The body of a `while` loop counts once; for the
sampler this is one token per sequence.
"""

import math
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from scotd_jax.models.api import LanguageModel
from scotd_jax.models.forward_options import ForwardOptions
from scotd_jax.training.step import make_loss_fn


def matmul_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Returns the matmul FLOPs of one call, summed over all devices."""
    return _jaxpr_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def largest_array_bytes(function: Callable[..., Any], *arguments: Any) -> int:
    """Returns the bytes of the largest array that one call computes, unsharded."""

    def largest(jaxpr: core.Jaxpr) -> int:
        sizes = [0]
        for equation in jaxpr.eqns:
            sizes += [_aval_bytes(variable.aval) for variable in equation.outvars]
            sizes += [largest(inner) for inner in _inner_jaxprs(equation)]
        return max(sizes)

    return largest(jax.make_jaxpr(function)(*arguments).jaxpr)


def make_gradient(
    model: LanguageModel, chunk: int, parts: Sequence[tuple[str, float]], options: ForwardOptions = ForwardOptions()
) -> Callable[..., Any]:
    """Returns gradient(params, batch) of the loss of an update without dropout."""
    loss = make_loss_fn(model, chunk=chunk, options=options)
    return jax.grad(lambda params, batch: sum(weight * loss(params, batch[name])[0].sum for name, weight in parts))


def residual_bytes(model: LanguageModel, part: Any, chunk: int, options: ForwardOptions = ForwardOptions()) -> int:
    """Returns the bytes that the loss of one part stores for its backward pass, without parameters."""
    params = model.abstract()
    loss = make_loss_fn(model, chunk=chunk, options=options)
    saved = jax.eval_shape(lambda p, b: jax.vjp(lambda q: loss(q, b)[0].sum, p)[1], params, part)
    # The backward pass stores parameters, too. They are recognized by their shapes.
    parameter_shapes = {leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim > 1}
    return sum(_aval_bytes(leaf) for leaf in jax.tree.leaves(saved) if leaf.shape not in parameter_shapes)


def parameter_copy_bytes(model: LanguageModel, scan_layers: bool) -> int:
    """Returns the bytes of the temporary copies of parameters in an update.

    Without a scan over layers these are the matrices in the compute dtype. With a scan they are the stacked parameters
    of all layers. Decoder-only models scan twice, once for prompts and once for responses, with stacked gradients each.
    """
    params = model.abstract()
    if not scan_layers:
        size = jnp.dtype(model.precision.compute).itemsize
        return sum(size * leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim > 1 and size < 4)
    copies = 2 if "layers" in params else 1
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return copies * sum(_aval_bytes(leaf) for path, leaf in leaves if any(key.key == "layers" for key in path))


def _jaxpr_flops(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = typing.cast(jax.core.ShapedArray, equation.invars[0].aval).shape
            output = typing.cast(jax.core.ShapedArray, equation.outvars[0].aval).shape
            total += 2 * math.prod(output) * math.prod(shape[axis] for axis in contracted)
            continue
        inner = [_jaxpr_flops(jaxpr) for jaxpr in _inner_jaxprs(equation)]
        if equation.primitive.name == "cond":
            total += max(inner, default=0)
        else:
            total += sum(inner) * (equation.params["length"] if equation.primitive.name == "scan" else 1)
    return total


def _inner_jaxprs(equation: Any) -> Iterator[core.Jaxpr]:
    """The jaxprs that an equation calls, without the rules of custom derivatives."""
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _aval_bytes(aval: Any) -> int:
    dtype = getattr(aval, "dtype", None)
    if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended):
        return 0
    return math.prod(aval.shape) * jnp.dtype(dtype).itemsize
