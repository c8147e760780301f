"""The sampler with real models: it says what the model, asked without any cache, would say to the same noise."""

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
from scotd_jax.sampling.noise import base_key, keys_of, name_words, uniforms
from scotd_jax.sampling.policies import draw, log_probability
from scotd_jax.sampling.requests import Request
from scotd_jax.sampling.sampler import Sampler
from scotd_jax.tokenization import Tokenizer
from tests.helpers.tolerances import FLOAT32

B, G, T, SEED = 4, 3, 52, 11  # T is long enough for the cache to grow once
TOKENIZER = Tokenizer.train_word_level([" ".join(f"word{i}" for i in range(40)) + " . Q:"])
SHAPES = {"opt-tiny": {"init_std": 0.2, "vocab_size": 48}, "t5-tiny": {"initializer_factor": 1.5, "vocab_size": 48}}
OTHERS = {"decoder-tiny": {"initializer_range": 0.2, "vocab_size": 48}}
POLICIES = {
    "greedy": Sampling(temperature=0.0),
    "sampled": Sampling(temperature=0.8),
    "restricted": Sampling(temperature=1.2, top_k=20, top_p=0.9),
}
STOPS = ("Q:",)


@functools.cache
def model_and_params(kind):
    model = build(config_for(kind, (SHAPES | OTHERS)[kind]), Precision("float32"))
    return model, model.init(jax.random.key(5))


def sampler(kind, policy, *, params=None, mesh=None, **changes):
    model, placed = model_and_params(kind)
    policy = dataclasses.replace(policy, **{"n": G, "max_new_tokens": T, "batch_size": B, "bucket": 16, **changes})
    return Sampler(model, params or placed, TOKENIZER, policy, seed=SEED, stops=STOPS, mesh=mesh)


def requests(kind, indices=range(G)):
    model, _ = model_and_params(kind)
    texts = [" ".join(f"word{(7 * q + i) % 40}" for i in range(4 * q)) for q in range(B)]
    ids = [TOKENIZER.prompt_ids(text, model.config.kind) for text in texts]
    return [Request(f"q{q}", prompt, tuple(indices)) for q, prompt in enumerate(ids)]


def said(speaker, asked):
    return {(s.question_id, s.sample_index): s for batch in speaker(asked) for s in batch}


@functools.cache
def usual(kind, policy):
    return said(sampler(kind, POLICIES[policy]), requests(kind))


@functools.cache
def forced(kind):
    """Logits of whole responses in one call, without a cache: [B, G, T, V]."""
    model, _ = model_and_params(kind)

    def run(params, prompt, mask, inputs):
        hidden, _ = model.extend(params, model.prefill(params, prompt, mask), inputs)
        return output_logits(hidden, model.unembedding(params), "float32")

    return jax.jit(run)


@pytest.mark.parametrize(
    ("kind", "policy"),
    [*((kind, policy) for kind in SHAPES for policy in ("greedy", "sampled")), ("opt-tiny", "restricted")],
)
def test_every_token_is_what_the_uncached_model_says_to_its_noise(kind, policy):
    model, params = model_and_params(kind)
    samples = usual(kind, policy)
    pairs = [split_prompt(r.prompt_ids, model.start_token) for r in requests(kind)]
    prompt, mask = pad_rows([prefix for prefix, _ in pairs], 16)
    targets = np.stack([[pad_rows([samples[f"q{q}", g].token_ids], T)[0][0] for g in range(G)] for q in range(B)])
    real = np.stack([[np.arange(T) < samples[f"q{q}", g].num_tokens for g in range(G)] for q in range(B)])
    start = np.array([first for _, first in pairs], np.int32)[:, None, None]
    inputs = np.concatenate([np.broadcast_to(start, (B, G, 1)), targets[:, :, :-1]], -1)
    logits = forced(kind)(params, prompt, mask, inputs)

    logprob = np.where(real, log_probability(logits, jnp.asarray(targets)), 0).sum(-1)
    for (question, g), sample in samples.items():
        np.testing.assert_allclose(sample.logprob, logprob[int(question[1:]), g], rtol=FLOAT32)

    words = np.broadcast_to(np.stack([name_words(f"q{q}") for q in range(B)])[:, None], (B, G, 2))
    keys = keys_of(base_key(SEED), words, np.broadcast_to(np.arange(G), (B, G)))
    noise = jax.vmap(uniforms, (None, 0), 2)(keys, jnp.arange(T))
    allowed = jnp.where(jnp.arange(logits.shape[-1]) < TOKENIZER.size, logits, -jnp.inf)
    tokens = np.asarray(draw(allowed, noise, POLICIES[policy])[0])
    np.testing.assert_array_equal(tokens[real], targets[real])
    assert policy == "greedy" or len({s.token_ids for s in samples.values()}) == B * G
    assert max(s.num_tokens for s in samples.values()) > 32


@pytest.mark.parametrize("kind", SHAPES)
def test_samples_of_a_question_are_those_that_it_gives_one_by_one(kind):
    single = sampler(kind, POLICIES["sampled"], n=1)
    one_by_one = [said(single, requests(kind, [g])) for g in range(G)]
    for name, sample in usual(kind, "sampled").items():
        assert one_by_one[name[1]][name].token_ids == sample.token_ids


@pytest.mark.parametrize("kind", SHAPES)
def test_company_in_a_batch_changes_not_one_bit(kind):
    speaker = sampler(kind, POLICIES["sampled"])
    for asked in (requests(kind)[::-1], requests(kind)[1:2], requests(kind, [1])):
        again = said(speaker, asked)
        assert again == {name: usual(kind, "sampled")[name] for name in again}


@pytest.mark.parametrize("kind", SHAPES)
def test_eight_devices_say_what_one_says(kind):
    model, params = model_and_params(kind)
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    placed = jax.device_put(params, param_shardings(mesh, model.axes(), model.abstract()))
    policy = {"opt-tiny": "greedy", "t5-tiny": "sampled"}[kind]
    sharded = said(sampler(kind, POLICIES[policy], params=placed, mesh=mesh), requests(kind))
    for name, sample in usual(kind, policy).items():
        assert sharded[name].token_ids == sample.token_ids
        np.testing.assert_allclose(sharded[name].logprob, sample.logprob, rtol=FLOAT32)


@pytest.mark.parametrize("kind", [*SHAPES, *OTHERS])
def test_exemplars_that_are_shared_are_said_as_if_they_were_not(kind):
    """All prompts begin alike, and one has other exemplars; an encoder reads the whole prompt whatever is shared."""
    plain = requests(kind)
    beginning = TOKENIZER.prompt_ids(" ".join(f"word{3 * i % 40}" for i in range(9)), "opt")
    whole = [dataclasses.replace(r, prompt_ids=[*beginning, *r.prompt_ids], shared=10) for r in plain]
    whole[1] = dataclasses.replace(whole[1], shared=7)
    apart = [dataclasses.replace(r, shared=0) for r in whole]
    speaker = sampler(kind, POLICIES["sampled"])
    together, separate = said(speaker, whole), said(sampler(kind, POLICIES["sampled"]), apart)
    for name, sample in separate.items():
        assert together[name].token_ids == sample.token_ids
        np.testing.assert_allclose(together[name].logprob, sample.logprob, rtol=FLOAT32)
    shared = {tokens for tokens, _ in speaker.shapes}
    assert shared == ({16} if speaker._model.start_token is None else {0})
