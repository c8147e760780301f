"""T5's relative position bias (arXiv 1910.10683, section 2.1): one parameter per head and distance bucket."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def position_bias(
    table: Float[Array, "buckets H"],
    queries: Int[Array, "*rows R"],
    keys: Int[Array, " T"],
    bidirectional: bool,
    max_distance: int,
) -> Float[Array, "*rows H R T"]:
    """Returns the bias of every pair of a query and a key, given the positions of both."""
    distance = keys.reshape((1,) * queries.ndim + keys.shape) - queries[..., None]
    buckets = distance_bucket(distance, bidirectional, table.shape[0], max_distance)
    return jnp.moveaxis(table[buckets], -1, -3)


def distance_bucket(
    distance: Int[Array, "*n"], bidirectional: bool, num_buckets: int, max_distance: int
) -> Int[Array, "*n"]:
    """Returns the bucket of a distance, key position - query position.

    Every short distance has a bucket of its own; buckets of longer ones grow logarithmically up to `max_distance`. With
    `bidirectional` each direction has half of the buckets; otherwise all belong to keys before the query.
    """
    if bidirectional:
        num_buckets //= 2
        offset, distance = jnp.where(distance > 0, num_buckets, 0), jnp.abs(distance)
    else:
        offset, distance = jnp.zeros_like(distance), jnp.maximum(-distance, 0)
    exact = num_buckets // 2
    ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(max_distance / exact)
    far = exact + (ratio * (num_buckets - exact)).astype(jnp.int32)
    return offset + jnp.where(distance < exact, distance, jnp.minimum(far, num_buckets - 1))
