"""Sampling policies: the allowed tokens, their frequencies, and agreement with simple implementations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from scotd_jax.config import Sampling
from scotd_jax.sampling import policies
from scotd_jax.sampling.policies import _top_p_threshold, inverse_cdf, log_probability, restrict_logits, sample_token
from tests.helpers.tolerances import FLOAT32

pytestmark = pytest.mark.usefixtures("fast_compilation")

restricted = jax.jit(restrict_logits, static_argnums=(1, 2, 3))
sampled = jax.jit(sample_token, static_argnums=(2, 3))
by_inverse_cdf = jax.jit(inverse_cdf)


def random_logits(seed, *shape, spread=2.0):
    return spread * np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def allowed_by_sorting(logits, temperature, top_k, top_p):
    """Reference implementation: sort, keep the first k, keep the shortest prefix with probability top_p."""
    logits = logits.astype(np.float64) / temperature
    order = np.argsort(-logits, kind="stable")
    kept = order[: top_k or len(order)]
    probability = np.exp(logits[kept] - logits[kept].max())
    probability /= probability.sum()
    probability_before = np.cumsum(probability) - probability
    return set(kept[probability_before < top_p].tolist())


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 7, 1.0), (0.7, 0, 0.8), (1.3, 7, 0.8), (1.0, 1, 1.0), (2.0, 0, 0.3)]
)
def test_restriction_keeps_the_same_set_as_sorting(temperature, top_k, top_p):
    logits = random_logits(0, 12, 90)
    kept = np.asarray(restricted(logits, temperature, top_k, top_p))
    for row, before in zip(kept, logits, strict=True):
        assert set(np.flatnonzero(np.isfinite(row)).tolist()) == allowed_by_sorting(before, temperature, top_k, top_p)
        np.testing.assert_allclose(row[np.isfinite(row)] * temperature, before[np.isfinite(row)], rtol=FLOAT32)


def test_top_p_near_one_keeps_all_tokens_despite_rounding():
    """Sums of the same weights in another order can fall short of the target; a top_p above 1 simulates this."""
    assert (jax.jit(_top_p_threshold, static_argnums=(1, 2))(random_logits(1, 12, 90), 0.9, 1.0001) == -np.inf).all()


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), rows=st.sampled_from([(1, 3), (5,), (3, 2)]), group=st.integers(1, 4))
def test_top_p_threshold_in_groups_of_rows_has_the_same_bits(seed, rows, group):
    rng = np.random.default_rng(seed)
    logits = random_logits(seed, *rows, 700, spread=float(rng.choice([0.01, 1, 30])))
    logits[..., rng.random(700) < 0.3] = -np.inf
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policies, "CPU_CACHE_BYTES", group * 8 * 700)
        in_groups = jax.jit(lambda x: policies._top_p_threshold(x, 0.7, 0.9))
        is_grouped = "platform_index" in str(jax.make_jaxpr(in_groups)(logits))
        assert is_grouped == (logits.size > group * 700)
        grouped = np.asarray(in_groups(logits))
    whole = np.asarray(jax.jit(policies._search_top_p_threshold, static_argnums=(1, 2))(logits, 0.7, 0.9))
    np.testing.assert_array_equal(grouped.view(np.uint32), whole.view(np.uint32))


def test_equally_likely_tokens_are_kept_or_dropped_together():
    logits = np.log(np.array([[0.3, 0.3, 0.2, 0.1, 0.1]], np.float32))
    assert np.isfinite(restricted(logits, 1.0, 1, 1.0)).tolist() == [[True, True, False, False, False]]
    assert np.isfinite(restricted(logits, 1.0, 4, 1.0)).all()
    assert np.isfinite(restricted(logits, 1.0, 0, 0.5)).tolist() == [[True, True, False, False, False]]


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), top_k=st.sampled_from([0, 3]), top_p=st.sampled_from([0.5, 1.0]))
def test_only_allowed_tokens_are_sampled(seed, top_k, top_p):
    rng = np.random.default_rng(seed)
    logits = random_logits(seed, 4, 700, spread=float(rng.choice([0.01, 1, 30])))
    logits[:, rng.random(700) < 0.5] = -np.inf
    uniform = rng.choice([0.0, 0.5, np.nextafter(np.float32(1), np.float32(0)), rng.random()], 4).astype(np.float32)
    policy = Sampling(temperature=0.9, top_k=top_k, top_p=top_p)
    token = np.asarray(sampled(logits, uniform, policy)[0])
    kept = np.asarray(restricted(logits, 0.9, top_k, top_p))
    assert np.isfinite(np.take_along_axis(kept, token[:, None], 1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("size", [5, 3000, 2999])
def test_token_frequencies_match_probabilities(size):
    """Chi-square test over 200,000 samples; tokens with at most 20 expected samples are counted as one."""
    logits = np.sort(random_logits(3, size))[::-1].copy()
    uniform = np.random.default_rng(4).random((40, 5000), np.float32)
    token = jax.lax.map(lambda u: by_inverse_cdf(jnp.broadcast_to(logits, (5000, size)), u), jnp.asarray(uniform))
    expected = np.exp(logits - logits.max()).astype(np.float64)
    expected *= uniform.size / expected.sum()
    counts = np.bincount(np.asarray(token).ravel(), minlength=size)
    head = int(np.sum(expected > 20))
    counts, expected = (np.append(c[:head], c[head:].sum()) if head < size else c for c in (counts, expected))
    assert len(counts) == size or len(counts) > 300
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3


@pytest.mark.parametrize("size", [6, 3000, 2999])
def test_inverse_cdf_inverts_the_cumulative_distribution(size):
    logits, uniform = random_logits(5, 64, size), np.random.default_rng(6).random(64, np.float32)
    token = np.asarray(by_inverse_cdf(logits, uniform))
    probability = scipy.special.softmax(logits.astype(np.float64), axis=-1)
    above = np.take_along_axis(np.cumsum(probability, -1), token[:, None], -1)[:, 0]
    below = above - np.take_along_axis(probability, token[:, None], -1)[:, 0]
    assert np.all(below - FLOAT32 <= uniform)
    assert np.all(uniform <= above + FLOAT32)


def test_temperature_zero_samples_the_most_likely_token():
    logits = random_logits(7, 3, 50)
    policy = Sampling(temperature=0.0, top_k=3)
    np.testing.assert_array_equal(sampled(logits, np.full(3, 0.99, np.float32), policy)[0], logits.argmax(-1))


def test_log_probability_ignores_the_temperature():
    logits, token = random_logits(8, 2, 3, 50), np.array([[0, 1, 49], [3, 3, 7]], np.int32)
    expected = np.take_along_axis(scipy.special.log_softmax(logits.astype(np.float64), -1), token[..., None], -1)
    np.testing.assert_allclose(jax.jit(log_probability)(logits, token), expected[..., 0], rtol=FLOAT32)


@pytest.mark.slow
@pytest.mark.parametrize("size", [6, 2999, 3000])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("excluded", [0, 1, 77])
def test_sampling_matches_the_simple_implementation(size, temperature, excluded):
    """Reference: mask, apply the temperature, invert the distribution or take the maximum, look up the probability."""
    logits, uniform = random_logits(9, 256, size), np.random.default_rng(10).random(256, np.float32)
    limit = max(2, size - excluded)
    masked = np.where(np.arange(size) < limit, logits, -np.inf)
    policy = Sampling(temperature=temperature)
    token, logprob = map(np.asarray, sampled(logits, uniform, policy, limit))
    expected = (
        masked.argmax(-1)
        if temperature == 0
        else np.asarray(by_inverse_cdf(masked / np.float32(temperature or 1), uniform))
    )
    assert token.max() < limit
    assert np.mean(token == expected) >= (1 if temperature == 0 else 0.98)  # rounding decides near the interval ends
    assert np.abs(token - expected).max() <= 1
    exact = np.take_along_axis(scipy.special.log_softmax(logits.astype(np.float64), -1), token[:, None], -1)[:, 0]
    np.testing.assert_allclose(logprob, exact, rtol=FLOAT32)


def test_likely_tokens_beyond_the_vocab_limit_do_not_hide_the_others():
    logits = random_logits(11, 5, 90)
    logits[:, 80:] += 60
    token, logprob = sampled(logits, np.linspace(0, 0.99, 5, dtype=np.float32), Sampling(temperature=0.5), 80)
    expected = by_inverse_cdf(logits[:, :80] / np.float32(0.5), np.linspace(0, 0.99, 5, dtype=np.float32))
    np.testing.assert_array_equal(token, expected)
    assert (np.asarray(logprob) < -40).all()
