"""Keyed noise: the randomness of a sample depends on its question id and sample index, not on how it is batched.

Every draw is a pure function of (seed, question id, sample index, token position). Batch, slot, host, order and point
of resumption have no influence, so a run that is interrupted, batched or sharded differently draws the same numbers. A
sampling policy may use one uniform number per sequence and step.
"""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt32


def hash_question_id(question_id: str) -> UInt32[np.ndarray, "2"]:
    """The 64-bit BLAKE2b hash of a question id, as two words; the same on every machine."""
    digest = hashlib.blake2b(question_id.encode("utf-8"), digest_size=8).digest()
    return np.frombuffer(digest, "<u4").astype(np.uint32)


def base_key(seed: int) -> Key[Array, ""]:
    """The key of a seed, into which `sample_keys` folds question and sample index.

    The generator is fixed, so that the noise does not depend on JAX's default.
    """
    return jax.random.key(seed, impl="threefry2x32")


def sample_keys(
    base: Key[Array, ""],
    question_hash: UInt32[np.ndarray | Array, "*rows 2"],
    sample_index: Int[np.ndarray | Array, "*rows"],
) -> Key[Array, "*rows"]:
    """One key per sample: the base key with both words of the question's hash and the sample index folded in."""
    fold = jax.random.fold_in
    words, indices = jnp.asarray(question_hash).reshape(-1, 2), jnp.asarray(sample_index, jnp.uint32).ravel()
    keys = jax.vmap(lambda pair, index: fold(fold(fold(base, pair[0]), pair[1]), index))(words, indices)
    return keys.reshape(sample_index.shape)


def uniforms(keys: Key[Array, "B G"], position: Int[Array, ""] | Int[Array, "B G"] | int) -> Float[Array, "B G"]:
    """One float32 in [0, 1) per sample, for the token at `position` (from 0) of its response."""
    positions = jnp.broadcast_to(jnp.asarray(position, jnp.uint32), keys.shape)

    def draw(key: Key[Array, ""], position: UInt32[Array, ""]) -> Float[Array, ""]:
        return jax.random.uniform(jax.random.fold_in(key, position), (), jnp.float32)

    return jax.vmap(jax.vmap(draw))(keys, positions)
