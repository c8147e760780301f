"""Invariants of all models: shared prefixes, caches, padding and batch order do not change results."""

import functools
import subprocess
import sys

import flax
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scotd_jax.models.api import Context, Precision
from scotd_jax.models.cache import flush_recent
from scotd_jax.models.layers import logits
from scotd_jax.models.registry import build, config_for
from tests.helpers.cli import ROOT, environment
from tests.helpers.exhaustive import repeat_for
from tests.helpers.tolerances import BFLOAT16, FLOAT32, GRADIENT
from tests.models.test_attention import all_equations, close

V = 31
_OPT = {"vocab_size": V, "hidden_size": 16, "num_attention_heads": 2, "ffn_dim": 24, "max_position_embeddings": 32}
_DECODER = {
    **{name: _OPT[name] for name in ("vocab_size", "hidden_size", "max_position_embeddings")},
    "model_type": "qwen3",  # with query and key norms and all biases it covers every feature of the family
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "head_dim": 6,
    "attention_bias": True,
}
_GEMMA = {
    **_DECODER,
    "model_type": "gemma3_text",
    "sliding_window": 3,  # shorter than a prompt or a response
    "sliding_window_pattern": 2,
    "rope_local_base_freq": 10.0,
}
_T5 = {"vocab_size": V, "d_model": 16, "d_kv": 6, "num_heads": 2, "d_ff": 24, "relative_attention_max_distance": 16}
KINDS = {
    "opt": ("opt-tiny", _OPT),
    "opt-350m": ("opt-tiny", {**_OPT, "word_embed_proj_dim": 10, "do_layer_norm_before": False}),
    "t5-v1.0": ("t5-tiny", _T5),
    "t5-v1.1": ("t5-tiny", {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "decoder": ("decoder-tiny", _DECODER),
    "gemma3": ("decoder-tiny", _GEMMA),
}

pytestmark = pytest.mark.usefixtures("fast_compilation")

WITHOUT_WINDOW = [kind for kind in KINDS if kind != "gemma3"]  # other tests cover the sliding window
REPRESENTATIVE = ("opt", "t5-v1.0")  # kinds for tests of code that all kinds share


@functools.cache
def model(kind, compute="float32"):
    return build(config_for(*KINDS[kind]), Precision(compute))


@functools.cache
def params(kind):
    """Random parameters, larger than initial ones, so that every parameter matters."""
    leaves, tree = jax.tree.flatten(model(kind).abstract())
    rng = np.random.default_rng(0)
    return tree.unflatten([jnp.asarray(rng.normal(size=x.shape) * 0.4, jnp.float32) for x in leaves])


def tokens(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, shape), jnp.int32)


def right_padded(lengths, width):
    return jnp.arange(width)[None] < jnp.asarray(lengths)[:, None]


@functools.cache
def hidden_fn(kind, compute="float32"):
    m = model(kind, compute)
    return jax.jit(lambda p, prompt, mask, inputs: m.extend(p, m.prefill(p, prompt, mask), inputs)[0])


@functools.cache
def loss_fn(kind):
    """Returns a compiled function: the weighted sum of the cross entropy, and its gradient."""
    m = model(kind)

    def loss(p, prompt, mask, inputs, targets, weights):
        scores = logits(m.extend(p, m.prefill(p, prompt, mask), inputs)[0], m.unembedding(p), "float32")
        picked = jnp.take_along_axis(jax.nn.log_softmax(scores), targets[..., None], -1)[..., 0]
        return -(picked * weights).sum()

    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.slow
@pytest.mark.parametrize("kind", repeat_for(WITHOUT_WINDOW, kept=("opt-350m", "t5-v1.0", "decoder")))
@settings(max_examples=8)
@given(data=st.data())
def test_grouped_loss_and_gradient_equal_those_of_separate_pairs(kind, data):
    B, G, P, R = data.draw(st.sampled_from([(2, 3, 5, 4), (3, 2, 1, 3)] if kind in REPRESENTATIVE else [(2, 3, 5, 4)]))
    prompt_lengths = data.draw(st.lists(st.integers(0, P), min_size=B, max_size=B))
    lengths = data.draw(st.lists(st.integers(1, R), min_size=B * G, max_size=B * G))
    seed = data.draw(st.integers(0, 2**32 - 1))
    prompt, mask = tokens(seed, B, P), right_padded(prompt_lengths, P)
    inputs, targets = tokens(seed + 1, B, G, R), tokens(seed + 2, B, G, R)
    weights = right_padded(lengths, R).reshape(B, G, R).astype(jnp.float32)

    grouped = loss_fn(kind)(params(kind), prompt, mask, inputs, targets, weights)
    responses = [x.reshape(B * G, 1, R) for x in (inputs, targets, weights)]
    pairs = loss_fn(kind)(params(kind), prompt.repeat(G, 0), mask.repeat(G, 0), *responses)
    close(grouped[0], pairs[0], GRADIENT)
    close(grouped[1], pairs[1], GRADIENT)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WITHOUT_WINDOW)
def test_cached_steps_equal_the_full_forward_pass(kind):
    B, G, P, R = 2, 3, 5, 7
    m, p = model(kind), params(kind)
    prompt, mask, inputs = tokens(0, B, P), right_padded([5, 3], P), tokens(1, B, G, R)
    full = hidden_fn(kind)(p, prompt, mask, inputs)
    context, cache = jax.jit(m.prefill)(p, prompt, mask), m.new_cache(B, G, 6, 3)
    extend, steps = jax.jit(m.extend), []
    for chunk in (inputs[:, :, :2], *(inputs[:, :, t : t + 1] for t in range(2, R))):
        if cache.index == 3:
            cache = jax.jit(flush_recent, static_argnums=1)(cache, 3)
        hidden, cache = extend(p, context, chunk, cache)
        steps.append(hidden)
    assert (cache.length + cache.index == R).all()
    close(jnp.concatenate(steps, 2), full, FLOAT32)


@pytest.mark.slow
@pytest.mark.usefixtures("default_compilation")
@pytest.mark.parametrize("kind", repeat_for(KINDS, kept=("opt", "t5-v1.1", "gemma3")))
def test_row_that_begins_later_is_bit_equal(kind):
    """Two responses begin one and two flushes later than the others, and the context also holds a second question."""
    B, G, P, R, C = 2, 2, 5, 4, 2  # C: steps between two flushes of the cache
    m, p = model(kind), params(kind)
    prompt, mask, inputs = tokens(0, B, P), right_padded([5, 3], P), tokens(1, B, G, R)
    (segment,), lengths = jax.jit(m.prefill)(p, prompt, mask)
    extend = jax.jit(m.extend)

    def run(begins, own):
        """Returns hidden states [B, G, R, E] of responses that begin at the steps `begins`[B, G], multiples of C.

        The context of a response has both questions as segments; the segment `own` is that of its own question.
        """
        both = [segment, jax.tree.map(lambda x: x[::-1], segment)]
        segments = tuple(
            s._replace(mask=jnp.full((B, G, 1), i == own) & s.mask[:, None])
            for i, s in enumerate(both if own == 0 else both[::-1])
        )
        context, cache = Context(segments, lengths[:, None].repeat(G, 1)), m.new_cache(B, G, 6, C)
        hidden = np.zeros(())
        for t in range(int(begins.max()) + R):
            if t and t % C == 0:
                cache = flush_recent(cache, C)
            cache = cache._replace(length=jnp.where(begins == t, 0, cache.length))
            at = np.clip(t - begins, 0, R - 1)
            step, cache = extend(p, context, np.take_along_axis(np.asarray(inputs), at[..., None], 2), cache)
            hidden = np.zeros((B, G, R, step.shape[-1]), np.float32) if not hidden.shape else hidden
            for b, g in zip(*np.nonzero((t >= begins) & (t < begins + R)), strict=True):
                hidden[b, g, at[b, g]] = step[b, g, 0]
        return hidden

    simultaneous = run(np.zeros((B, G), int), 0)
    close(simultaneous, hidden_fn(kind)(p, prompt, mask, inputs), FLOAT32)
    np.testing.assert_array_equal(run(np.array([[0, 2], [4, 0]]), 1), simultaneous)


@pytest.mark.slow
@pytest.mark.usefixtures("default_compilation")
@pytest.mark.parametrize("kind", [*REPRESENTATIVE, "decoder"])
def test_padding_changes_nothing(kind):
    B, G, P, R = 2, 3, 5, 4
    p, prompt, inputs = params(kind), tokens(0, B, P), tokens(1, B, G, R)
    mask = right_padded([4, 2], P)
    want = hidden_fn(kind)(p, prompt, mask, inputs)
    other_tokens = jnp.where(mask, prompt, V - 1 - prompt)
    np.testing.assert_array_equal(hidden_fn(kind)(p, other_tokens, mask, inputs), want)
    wider = [jnp.pad(x, ((0, 0), (0, 3))) for x in (prompt, mask)]
    close(hidden_fn(kind)(p, *wider, inputs), want, FLOAT32)
    alone = hidden_fn(kind)(p, prompt[1:, :2], mask[1:, :2], inputs[1:])  # the second question, without padding
    close(alone, want[1:], FLOAT32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", REPRESENTATIVE)
def test_gradient_reaches_only_visible_tokens(kind):
    """All tokens differ, so each row of the embedding's gradient belongs to one token."""
    prompt, mask = jnp.array([[1, 2, 3], [4, 5, 6]]), right_padded([2, 3], 3)
    inputs = jnp.arange(7, 23).reshape(2, 2, 4)

    def last_hidden(p):  # question 0, response 1, token 2 (id 13)
        return jnp.square(hidden_fn(kind)(p, prompt, mask, inputs)[0, 1, 2]).sum()

    gradient = jax.grad(last_hidden)(params(kind))["embed"]["tokens"]
    reached = set(np.flatnonzero(np.abs(gradient).sum(1)).tolist())
    assert reached == {1, 2, 11, 12, 13}


@pytest.mark.slow
@pytest.mark.parametrize("kind", REPRESENTATIVE)
def test_empty_prefix_is_masked_and_produces_no_nan(kind):
    """The batch also contains a prefix that is not empty."""
    p, prompt, inputs, mask = params(kind), tokens(0, 2, 5), tokens(1, 2, 3, 4), right_padded([0, 5], 5)
    want = hidden_fn(kind)(p, prompt, mask, inputs)[:1]
    close(hidden_fn(kind)(p, prompt[:1, :1], mask[:1, :1], inputs[:1]), want, FLOAT32)
    _, gradient = loss_fn(kind)(p, prompt, mask & False, inputs, inputs, jnp.ones(inputs.shape))
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradient))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["opt", "opt-350m", "decoder", "gemma3"])
def test_shared_few_shot_examples_equal_a_longer_prompt(kind):
    m, p = model(kind), params(kind)
    examples, question, inputs = tokens(0, 1, 4), tokens(1, 2, 3), tokens(2, 2, 3, 4)
    mask = right_padded([3, 2], 3)
    prefill = jax.jit(m.prefill)
    context = prefill(p, question, mask, prefill(p, examples, jnp.ones((1, 4), bool)))
    assert context.length.tolist() == [7, 6]
    assert [s.mask.shape[0] for s in context.segments] == [1, 2]
    got = jax.jit(m.extend)(p, context, inputs)[0]
    prompt = jnp.concatenate([examples.repeat(2, 0), question], 1)
    close(got, hidden_fn(kind)(p, prompt, right_padded([7, 6], 7), inputs), FLOAT32)


def test_encoder_decoder_refuses_a_context_before_the_prompt():
    m, args = model("t5-v1.0"), (params("t5-v1.0"), tokens(0, 1, 3), jnp.ones((1, 3), bool))
    with pytest.raises(ValueError, match="few-shot examples"):
        jax.eval_shape(m.prefill, *args, jax.eval_shape(m.prefill, *args))


@pytest.mark.slow
@pytest.mark.parametrize("kind", WITHOUT_WINDOW)
def test_bfloat16_model_is_close_and_all_matmuls_accumulate_in_float32(kind):
    m, p = model(kind, "bfloat16"), params(kind)
    args = tokens(0, 2, 5), right_padded([5, 3], 5), tokens(1, 2, 3, 4)
    in_bfloat16, in_float32 = hidden_fn(kind, "bfloat16")(p, *args), hidden_fn(kind)(p, *args)
    assert in_bfloat16.dtype == jnp.float32
    assert not jnp.array_equal(in_bfloat16, in_float32)
    close(in_bfloat16, in_float32, BFLOAT16)

    def loss(p):
        return logits(m.extend(p, m.prefill(p, *args[:2]), args[2])[0], m.unembedding(p), "bfloat16").sum()

    equations = list(all_equations(jax.make_jaxpr(jax.grad(loss))(p).jaxpr.eqns))
    matmuls = [e for e in equations if e.primitive.name == "dot_general"]
    assert len(matmuls) > 50
    assert all({v.aval.dtype.name for v in e.invars} == {"bfloat16"} for e in matmuls)
    assert all(e.outvars[0].aval.dtype == jnp.float32 for e in matmuls)


def sums() -> list[float]:
    """Returns sums of absolute initial parameters and hidden states of two models."""
    found = []
    for kind in ("opt", "t5-v1.1"):
        args = tokens(0, 2, 5), right_padded([5, 3], 5), tokens(1, 2, 3, 4)
        found.append(float(abs(jax.jit(model(kind).init)(jax.random.key(0))["embed"]["tokens"]).sum()))
        found.append(float(abs(hidden_fn(kind)(params(kind), *args)).sum()))
    return found


_PRINT_SUMS = "from tests.models.test_model_invariants import sums; print(*sums())"


@pytest.mark.exhaustive
def test_both_graph_modes_of_flax_build_the_same_model():
    """A new process, because Flax reads the mode when it is imported."""
    other_mode = {"NNX_GRAPH_MODE": str(not flax.config.nnx_graph_mode).lower()}
    done = subprocess.run(
        [sys.executable, "-c", _PRINT_SUMS],
        cwd=ROOT,
        env=environment(fast_compilation=True) | other_mode,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    np.testing.assert_allclose([float(x) for x in done.stdout.split()], sums(), rtol=FLOAT32)
