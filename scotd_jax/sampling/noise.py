"""Randomness by name: the noise of a sample depends on what the sample is called and on nothing else.

A draw is a pure function of (seed, question id, sample index, token position). Batch, slot, host, order and resume
point do not enter, so a run that was cut, re-batched or re-sharded draws the same numbers. One uniform per row and
step is all that a policy may use (design.md section 5).
"""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt32


def name_words(question_id: str) -> UInt32[np.ndarray, "2"]:
    """64 bits of BLAKE2b of the id, as two words that `keys_of` folds in. The same on every machine."""
    digest = hashlib.blake2b(question_id.encode("utf-8"), digest_size=8).digest()
    return np.frombuffer(digest, "<u4").astype(np.uint32)


def base_key(seed: int) -> Key[Array, ""]:
    """What all names are folded into. The generator is named, so that the noise does not follow jax's default."""
    return jax.random.key(seed, impl="threefry2x32")


def keys_of(
    base: Key[Array, ""], words: UInt32[np.ndarray | Array, "*rows 2"], index: Int[np.ndarray | Array, "*rows"]
) -> Key[Array, "*rows"]:
    """One key per sample: the question's two words, then the sample index, folded into the seed's key one by one."""
    fold = jax.random.fold_in
    names = jnp.asarray(words).reshape(-1, 2), jnp.asarray(index, jnp.uint32).ravel()
    keys = jax.vmap(lambda word, i: fold(fold(fold(base, word[0]), word[1]), i))(*names)
    return keys.reshape(index.shape)


def uniforms(keys: Key[Array, "B G"], position: Int[Array, ""] | Int[Array, "B G"] | int) -> Float[Array, "B G"]:
    """float32 in [0, 1), one per row: the row's noise for the token at `position` of its response (counted from 0)."""
    positions = jnp.broadcast_to(jnp.asarray(position, jnp.uint32), keys.shape)

    def one(key: Key[Array, ""], position: UInt32[Array, ""]) -> Float[Array, ""]:
        return jax.random.uniform(jax.random.fold_in(key, position), (), jnp.float32)

    return jax.vmap(jax.vmap(one))(keys, positions)
