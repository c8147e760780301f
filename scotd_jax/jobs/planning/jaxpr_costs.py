"""What a program multiplies and keeps, read off its jaxpr: exact for any model and option, and nothing is compiled.

Counted are the matrix products that a program computes, recomputation and padding included, as two operations per pair
of numbers. A `while` loop counts once: of a sampler that is one token for every row.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from scotd_jax.models.api import Model
from scotd_jax.models.forward_options import ForwardOptions
from scotd_jax.training.step import make_loss_fn


def flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Of the products of one call, over all devices together."""
    return _products(jax.make_jaxpr(function)(*arguments).jaxpr)


def _products(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
            continue
        inner = [_products(each) for each in _inside(equation)]
        if equation.primitive.name == "cond":
            total += max(inner, default=0)
        else:
            total += sum(inner) * (equation.params["length"] if equation.primitive.name == "scan" else 1)
    return total


def largest(function: Callable[..., Any], *arguments: Any) -> int:
    """Bytes of the largest array that one call makes, over all devices together."""

    def of(jaxpr: core.Jaxpr) -> int:
        sizes = [0]
        for equation in jaxpr.eqns:
            sizes += [_bytes(var.aval) for var in equation.outvars]
            sizes += [of(each) for each in _inside(equation)]
        return max(sizes)

    return of(jax.make_jaxpr(function)(*arguments).jaxpr)


def _inside(equation: Any) -> Iterator[core.Jaxpr]:
    """The jaxprs that an equation calls. Of a function with a derivative of its own, the function alone."""
    for value in equation.params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, core.Jaxpr):
                yield each


def gradient(
    model: Model, chunk: int, parts: Sequence[tuple[str, float]], options: ForwardOptions = ForwardOptions()
) -> Callable[..., Any]:
    """f(params, batch): loss and gradient as an update without dropout computes them."""
    loss = make_loss_fn(model, chunk, options=options)
    return jax.grad(lambda params, batch: sum(weight * loss(params, batch[name])[0].sum for name, weight in parts))


def kept(model: Model, part: Any, chunk: int, options: ForwardOptions = ForwardOptions()) -> int:
    """Bytes that the derivative of the loss of a part keeps between forward and backward pass, without parameters."""
    params = model.abstract()
    loss = make_loss_fn(model, chunk, options=options)
    saved = jax.eval_shape(lambda p, b: jax.vjp(lambda q: loss(q, b)[0].sum, p)[1], params, part)
    shapes = {leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim > 1}
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(saved) if leaf.shape not in shapes)


def copied(model: Model, rolled: bool) -> int:
    """Bytes of the forms besides their own in which parameters are multiplied: matrices in the compute dtype, or where
    layers are rolled into a loop those of all layers as one. Prompts and responses that go through the same layers
    (decoder-only) then have gradients of their own, each of all layers."""
    params = model.abstract()
    if not rolled:
        size = jnp.dtype(model.precision.compute).itemsize
        return sum(size * leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim > 1 and size < 4)
    times = 2 if "layers" in params else 1
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return times * sum(_bytes(leaf) for path, leaf in leaves if any(key.key == "layers" for key in path))


def _bytes(aval: Any) -> int:
    dtype = getattr(aval, "dtype", None)
    if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended):
        return 0
    return math.prod(aval.shape) * jnp.dtype(dtype).itemsize
