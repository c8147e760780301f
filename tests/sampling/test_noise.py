"""Keyed noise: a pure function of seed, question, sample and position, and uniformly distributed."""

import jax
import numpy as np
import pytest
import scipy.stats

from scotd_jax.sampling.noise import base_key, hash_question_id, sample_keys, uniforms

QUESTION_IDS = tuple(f"world/train/{i}" for i in range(8))
_uniforms, _sample_keys = jax.jit(uniforms), jax.jit(sample_keys)


def noise(seed, question_ids, indices, positions):
    """The uniform numbers [questions, samples]; `indices` are sample indices, for all questions or one row for each."""
    hashes = np.stack([hash_question_id(id_) for id_ in question_ids])
    indices = np.broadcast_to(indices, (len(question_ids), np.shape(indices)[-1]))
    hashes = np.broadcast_to(hashes[:, None], (*indices.shape, 2))
    return np.asarray(_uniforms(_sample_keys(base_key(seed), hashes, indices), np.asarray(positions, np.int32)))


@pytest.mark.slow
def test_noise_is_the_same_in_every_batch_order_and_group():
    full = noise(7, QUESTION_IDS, np.arange(8), 3)
    order = np.random.default_rng(0).permutation(8)
    np.testing.assert_array_equal(noise(7, [QUESTION_IDS[i] for i in order], order, 3), full[order][:, order])
    np.testing.assert_array_equal(noise(7, QUESTION_IDS[5:6], [6], 3), full[5:6, 6:7])
    per_question = (np.arange(8) + np.arange(8)[:, None]) % 8
    np.testing.assert_array_equal(noise(7, QUESTION_IDS, per_question, 3), np.take_along_axis(full, per_question, 1))


def test_positions_can_differ_between_sequences():
    positions = np.arange(64).reshape(8, 8) % 3
    mixed = noise(7, QUESTION_IDS, np.arange(8), positions)
    for position in range(3):
        at_position = positions == position
        expected = noise(7, QUESTION_IDS, np.arange(8), position)
        np.testing.assert_array_equal(mixed[at_position], expected[at_position])


@pytest.mark.parametrize("part", ["seed", "question_id", "sample_index", "position"])
def test_noise_depends_on_every_part_of_the_key(part):
    changed = {
        "seed": (8, QUESTION_IDS, 0, 3),
        "question_id": (7, QUESTION_IDS[::-1], 0, 3),
        "sample_index": (7, QUESTION_IDS, 1, 3),
    }
    position_changed = (7, QUESTION_IDS, 0, 4)
    seed, question_ids, first_index, position = changed.get(part, position_changed)
    before, after = (
        noise(7, QUESTION_IDS, np.arange(8), 3),
        noise(seed, question_ids, np.arange(first_index, first_index + 8), position),
    )
    assert np.sum(before == after) == 0


def test_noise_has_pinned_values():
    """A seed must give the same samples in every version of this package and of JAX."""
    assert hash_question_id("world/train/0").tolist() == [1218651339, 1344376172]
    values = noise(0, ["world/train/0"], [0, 1], 2)
    np.testing.assert_array_equal(values, np.array([[0.9478161334991455, 0.0030258893966674805]], np.float32))


def test_noise_does_not_depend_on_the_default_generator_of_jax():
    before = noise(7, QUESTION_IDS, np.arange(8), 0)
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(noise(7, QUESTION_IDS, np.arange(8), 0), before)


@pytest.mark.slow
def test_noise_is_uniform_over_samples_and_over_positions():
    question_ids = [str(i) for i in range(100)]
    over_samples = noise(1, question_ids, np.arange(60), 0).ravel()
    over_positions = noise(1, question_ids, [0] * 60, np.tile(np.arange(60), (100, 1))).ravel()
    for values in (over_samples, over_positions):
        assert 0 <= values.min() < values.max() < 1
        assert scipy.stats.kstest(values, "uniform").pvalue > 1e-3
        assert abs(scipy.stats.pearsonr(values[1:], values[:-1]).statistic) < 0.05
