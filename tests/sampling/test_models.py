"""With real models the sampler generates the tokens that the model without a cache selects from the same noise."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scotd_jax.config import Mesh, Sampling
from scotd_jax.distributed.mesh import make_mesh
from scotd_jax.distributed.sharding import param_shardings
from scotd_jax.layout import pad_rows, split_prompt
from scotd_jax.models.api import Precision
from scotd_jax.models.layers import logits as output_logits
from scotd_jax.models.registry import build, config_for
from scotd_jax.sampling.noise import base_key, hash_question_id, sample_keys, uniforms
from scotd_jax.sampling.policies import log_probability, sample_token
from scotd_jax.sampling.requests import Request
from scotd_jax.sampling.sampler import Sampler
from scotd_jax.tokenization import Tokenizer
from tests.helpers.exhaustive import repeat_for
from tests.helpers.tolerances import FLOAT32

B, G, T, SEED = 4, 3, 52, 11  # questions, samples per question, tokens (enough for the cache to grow once), seed
TOKENIZER = Tokenizer.train_word_level([" ".join(f"word{i}" for i in range(40)) + " . Q:"])
SHAPES = {"opt-tiny": {"init_std": 0.2, "vocab_size": 48}, "t5-tiny": {"initializer_factor": 1.5, "vocab_size": 48}}
OTHERS = {"decoder-tiny": {"initializer_range": 0.2, "vocab_size": 48}}
POLICIES = {
    "greedy": Sampling(temperature=0.0),
    "sampled": Sampling(temperature=0.8),
    "restricted": Sampling(temperature=1.2, top_k=20, top_p=0.9),
}
STOPS = ("Q:",)

pytestmark = pytest.mark.usefixtures("fast_compilation")


@functools.cache
def model_and_params(kind):
    model = build(config_for(kind, (SHAPES | OTHERS)[kind]), Precision("float32"))
    return model, model.init(jax.random.key(5))


def sampler(kind, policy, *, params=None, mesh=None, **changes):
    model, default_params = model_and_params(kind)
    policy = dataclasses.replace(policy, **{"n": G, "max_new_tokens": T, "batch_size": B, "bucket": 16, **changes})
    return Sampler(model, params or default_params, TOKENIZER, policy, seed=SEED, stops=STOPS, mesh=mesh)


def requests(kind, indices=range(G)):
    model, _ = model_and_params(kind)
    texts = [" ".join(f"word{(7 * q + i) % 40}" for i in range(4 * q)) for q in range(B)]
    ids = [TOKENIZER.prompt_ids(text, model.config.kind) for text in texts]
    return [Request(f"q{q}", prompt, tuple(indices)) for q, prompt in enumerate(ids)]


def generate(sampler, requests):
    return {(s.question_id, s.sample_index): s for batch in sampler(requests) for s in batch}


@functools.cache
def default_samples(kind, policy):
    return generate(sampler(kind, POLICIES[policy]), requests(kind))


@functools.cache
def teacher_forced_logits(kind):
    """Logits of all response tokens in one call without a cache, [B, G, T, V]."""
    model, _ = model_and_params(kind)

    def run(params, prompt, mask, inputs):
        hidden, _ = model.extend(params, model.prefill(params, prompt, mask), inputs)
        return output_logits(hidden, model.unembedding(params), "float32")

    return jax.jit(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "policy"),
    repeat_for(
        [*((kind, policy) for kind in SHAPES for policy in ("greedy", "sampled")), ("opt-tiny", "restricted")],
        kept=[*((kind, "sampled") for kind in SHAPES), ("opt-tiny", "restricted")],
    ),
)
def test_every_token_matches_the_uncached_model_with_the_same_noise(kind, policy):
    model, params = model_and_params(kind)
    samples = default_samples(kind, policy)
    pairs = [split_prompt(r.prompt_ids, model.start_token) for r in requests(kind)]
    prompt, mask = pad_rows([prefix for prefix, _ in pairs], 16)
    targets = np.stack([[pad_rows([samples[f"q{q}", g].token_ids], T)[0][0] for g in range(G)] for q in range(B)])
    real = np.stack([[np.arange(T) < samples[f"q{q}", g].num_tokens for g in range(G)] for q in range(B)])
    start = np.array([first for _, first in pairs], np.int32)[:, None, None]
    inputs = np.concatenate([np.broadcast_to(start, (B, G, 1)), targets[:, :, :-1]], -1)
    logits = teacher_forced_logits(kind)(params, prompt, mask, inputs)

    logprob = np.where(real, log_probability(logits, jnp.asarray(targets)), 0).sum(-1)
    for (question, g), sample in samples.items():
        np.testing.assert_allclose(sample.logprob, logprob[int(question[1:]), g], rtol=FLOAT32)

    hashes = np.broadcast_to(np.stack([hash_question_id(f"q{q}") for q in range(B)])[:, None], (B, G, 2))
    keys = sample_keys(base_key(SEED), hashes, np.broadcast_to(np.arange(G), (B, G)))
    noise = jax.vmap(uniforms, (None, 0), 2)(keys, jnp.arange(T))
    allowed = jnp.where(jnp.arange(logits.shape[-1]) < TOKENIZER.size, logits, -jnp.inf)
    tokens = np.asarray(sample_token(allowed, noise, POLICIES[policy])[0])
    np.testing.assert_array_equal(tokens[real], targets[real])
    assert policy == "greedy" or len({s.token_ids for s in samples.values()}) == B * G
    assert max(s.num_tokens for s in samples.values()) > 32


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHAPES)
def test_samples_of_a_question_equal_those_generated_one_by_one(kind):
    single = sampler(kind, POLICIES["sampled"], n=1)
    one_by_one = [generate(single, requests(kind, [g])) for g in range(G)]
    for name, sample in default_samples(kind, "sampled").items():
        assert one_by_one[name[1]][name].token_ids == sample.token_ids


@pytest.mark.slow
@pytest.mark.usefixtures("default_compilation")
@pytest.mark.parametrize("kind", SHAPES)
def test_other_requests_in_the_batch_do_not_change_a_bit(kind):
    same_sampler = sampler(kind, POLICIES["sampled"])
    expected = generate(same_sampler, requests(kind))
    for other_batch in (requests(kind)[::-1], requests(kind)[1:2], requests(kind, [1])):
        again = generate(same_sampler, other_batch)
        assert again == {name: expected[name] for name in again}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHAPES)
def test_samples_on_eight_devices_equal_those_on_one(kind):
    model, params = model_and_params(kind)
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    sharded_params = jax.device_put(params, param_shardings(mesh, model.axes(), model.abstract()))
    policy = {"opt-tiny": "greedy", "t5-tiny": "sampled"}[kind]
    sharded = generate(sampler(kind, POLICIES[policy], params=sharded_params, mesh=mesh), requests(kind))
    for name, sample in default_samples(kind, policy).items():
        assert sharded[name].token_ids == sample.token_ids
        np.testing.assert_allclose(sharded[name].logprob, sample.logprob, rtol=FLOAT32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*SHAPES, *OTHERS])
def test_sharing_few_shot_examples_does_not_change_samples(kind):
    """All prompts but one share their few-shot examples. An encoder-decoder model encodes whole prompts anyway."""
    plain = requests(kind)
    few_shot = TOKENIZER.prompt_ids(" ".join(f"word{3 * i % 40}" for i in range(9)), "opt")
    shared = [dataclasses.replace(r, prompt_ids=[*few_shot, *r.prompt_ids], shared_length=10) for r in plain]
    shared[1] = dataclasses.replace(shared[1], shared_length=7)
    separate = [dataclasses.replace(r, shared_length=0) for r in shared]
    sharing_sampler = sampler(kind, POLICIES["sampled"])
    found, expected = generate(sharing_sampler, shared), generate(sampler(kind, POLICIES["sampled"]), separate)
    for name, sample in expected.items():
        assert found[name].token_ids == sample.token_ids
        np.testing.assert_allclose(found[name].logprob, sample.logprob, rtol=FLOAT32)
    few_shot_lengths = {few_shot_length for few_shot_length, _ in sharing_sampler.shapes}
    assert few_shot_lengths == ({16} if model_and_params(kind)[0].start_token is None else {0})
