"""Noise is a pure function of names, uniform, and different for different names."""

import jax
import numpy as np
import pytest
import scipy.stats

from scotd_jax.sampling.noise import base_key, keys_of, name_words, uniforms

NAMES = tuple(f"world/train/{i}" for i in range(8))
_uniforms, _keys_of = jax.jit(uniforms), jax.jit(keys_of)


def noise(seed, names, indices, positions):
    words = np.stack([name_words(name) for name in names])
    indices = np.broadcast_to(indices, (len(names), np.shape(indices)[-1]))
    words = np.broadcast_to(words[:, None], (*indices.shape, 2))
    return np.asarray(_uniforms(_keys_of(base_key(seed), words, indices), np.asarray(positions, np.int32)))


def test_is_the_same_in_every_batch_order_and_group():
    whole = noise(7, NAMES, np.arange(8), 3)
    order = np.random.default_rng(0).permutation(8)
    np.testing.assert_array_equal(noise(7, [NAMES[i] for i in order], order, 3), whole[order][:, order])
    np.testing.assert_array_equal(noise(7, NAMES[5:6], [6], 3), whole[5:6, 6:7])
    per_question = (np.arange(8) + np.arange(8)[:, None]) % 8
    np.testing.assert_array_equal(noise(7, NAMES, per_question, 3), np.take_along_axis(whole, per_question, 1))


def test_position_may_differ_from_row_to_row():
    positions = np.arange(64).reshape(8, 8) % 3
    by_row = noise(7, NAMES, np.arange(8), positions)
    for position in range(3):
        here = positions == position
        np.testing.assert_array_equal(by_row[here], noise(7, NAMES, np.arange(8), position)[here])


@pytest.mark.parametrize("part", ["seed", "name", "index", "position"])
def test_every_part_of_the_name_counts(part):
    changed = {"seed": (8, NAMES, 0, 3), "name": (7, NAMES[::-1], 0, 3), "index": (7, NAMES, 1, 3)}
    seed, names, first, position = changed.get(part, (7, NAMES, 0, 4))
    here, there = noise(7, NAMES, np.arange(8), 3), noise(seed, names, np.arange(first, first + 8), position)
    assert np.sum(here == there) == 0


def test_known_values_stay_what_they_are():
    """A sample's noise is part of what a seed means: it must survive every change of this package and of jax."""
    assert name_words("world/train/0").tolist() == [1218651339, 1344376172]
    values = noise(0, ["world/train/0"], [0, 1], 2)
    np.testing.assert_array_equal(values, np.array([[0.9478161334991455, 0.0030258893966674805]], np.float32))


def test_does_not_follow_the_default_generator_of_jax():
    before = noise(7, NAMES, np.arange(8), 0)
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(noise(7, NAMES, np.arange(8), 0), before)


def test_is_uniform_over_samples_and_over_positions():
    names = [str(i) for i in range(100)]
    over_samples = noise(1, names, np.arange(60), 0).ravel()
    over_positions = noise(1, names, [0] * 60, np.tile(np.arange(60), (100, 1))).ravel()
    for values in (over_samples, over_positions):
        assert 0 <= values.min() < values.max() < 1
        assert scipy.stats.kstest(values, "uniform").pvalue > 1e-3
        assert abs(scipy.stats.pearsonr(values[1:], values[:-1]).statistic) < 0.05
