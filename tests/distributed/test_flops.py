"""FLOP formulas against XLA's own count for the compiled program, and peak FLOP/s of devices.

XLA counts the body of a loop once, so these programs have no loops: one micro-batch, all logits at once. XLA also
counts norms and softmax, so the shapes are chosen such that matmuls dominate.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from benchmarks.roofline import decode_flops
from scotd_jax.distributed.chips import peak_flops
from scotd_jax.distributed.flops import generation_flops, matmul_sizes, prefill_flops, training_flops
from scotd_jax.models import registry
from scotd_jax.models.api import Precision
from scotd_jax.training.step import make_loss_fn
from tests.helpers.exhaustive import repeat_for
from tests.helpers.training_fixtures import BagConfig

TOLERANCE = 0.05
WIDE = {"vocab_size": 1024, "num_hidden_layers": 2, "hidden_size": 256, "num_attention_heads": 4}
CONFIGS = {
    "opt": registry.config_for("opt-125m", {**WIDE, "ffn_dim": 1024}),
    "narrow opt": registry.config_for("opt-350m", {**WIDE, "ffn_dim": 512, "word_embed_proj_dim": 128}),
    "t5": registry.config_for("t5-small", {"vocab_size": 1024, "d_model": 256, "num_layers": 2}),
    "gated t5": registry.config_for(
        "flan-t5-small", {"vocab_size": 512, "d_model": 256, "num_layers": 1, "num_decoder_layers": 2, "num_heads": 8}
    ),
    "decoder": registry.config_for(
        "qwen3-0.6b", {**WIDE, "num_key_value_heads": 2, "head_dim": 96, "intermediate_size": 768}
    ),
}


def shape_struct(*shape, dtype=jnp.int32):
    return jax.ShapeDtypeStruct(shape, dtype)


def xla_flops(function, *arguments) -> float:
    # The FLOP count does not depend on the optimization level.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function).lower(*arguments).compile(compiler_options=quick).cost_analysis()["flops"]


def model_of(name):
    return registry.build(CONFIGS[name], Precision("float32"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "B", "G", "P", "R"),
    repeat_for(
        [("opt", 2, 3, 64, 32), ("narrow opt", 1, 1, 192, 96), ("gated t5", 2, 3, 96, 32), ("decoder", 1, 6, 128, 32)],
        kept=[("narrow opt", 1, 1, 192, 96), ("gated t5", 2, 3, 96, 32)],
    ),
)
def test_training_flops_are_within_five_percent_of_xla(name, B, G, P, R):
    model = model_of(name)
    responses = shape_struct(B, G, R)
    batch = {
        "prompt": shape_struct(B, P),
        "prompt_mask": shape_struct(B, P, dtype=bool),
        "inputs": responses,
        "targets": responses,
        "weights": shape_struct(B, G, R, dtype=jnp.float32),
    }
    loss = make_loss_fn(model)
    counted = xla_flops(jax.grad(lambda params, batch: loss(params, batch)[0].sum), model.abstract(), batch)
    formula = training_flops(model.config, questions=B, group=G, prompt=P, response=R)
    assert formula == pytest.approx(counted, rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_prefill_and_decode_flops_are_within_five_percent_of_xla(name):
    model = model_of(name)
    B, G, P, T, C = 2, 4, 96, 32, 8
    prompt = shape_struct(B, P), shape_struct(B, P, dtype=bool)
    counted = xla_flops(model.prefill, model.abstract(), *prompt)
    assert prefill_flops(model.config, sequences=B, length=P) == pytest.approx(counted, rel=TOLERANCE)

    context = jax.eval_shape(model.prefill, model.abstract(), *prompt)
    cache = jax.eval_shape(lambda: model.new_cache(B, G, T, C))

    def step(params, context, tokens, cache):
        hidden, cache = model.extend(params, context, tokens, cache)
        return hidden @ model.unembedding(params).T, cache

    counted = xla_flops(step, model.abstract(), context, shape_struct(B, G, 1), cache)
    assert decode_flops(model.config, sequences=B * G, attended=P + T + C) == pytest.approx(counted, rel=TOLERANCE)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_matmul_sizes_match_the_parameters(config):
    leaves, _ = jax.tree_util.tree_flatten_with_path(registry.build(config).abstract())
    matrices = {"/".join(k.key for k in path): math.prod(leaf.shape) for path, leaf in leaves}
    kernels = {path: size for path, size in matrices.items() if path.endswith("kernel") and "lm_head" not in path}

    def total(*parts: str) -> int:
        return sum(size for path, size in kernels.items() if any(part in path for part in parts))

    counted = matmul_sizes(config)
    assert counted.output == matrices.get("lm_head/kernel", matrices["embed/tokens"])
    if config.kind == "t5":
        cross_keys_values = total("/cross/k/", "/cross/v/")
        assert counted.prompt == total("encoder") + cross_keys_values
        assert counted.response == total("decoder") - cross_keys_values
    else:
        last = f"layers/{config.num_hidden_layers - 1}/"
        unused = total(last) - total(f"{last}attn/k/", f"{last}attn/v/")
        assert counted.response == sum(kernels.values())
        assert counted.prompt == sum(kernels.values()) - unused - total("project_out")


def test_skip_masked_leaves_out_pairs_hidden_by_a_causal_mask():
    opt, t5 = CONFIGS["opt"], CONFIGS["t5"]
    L, D = opt.num_hidden_layers, opt.hidden_size
    shape = {"questions": 3, "group": 2, "prompt": 8, "response": 4}
    # A causal mask leaves 36 of 8 * 8 pairs of prompt tokens, and 10 of 4 * 4 pairs of response tokens. The last layer
    # of a decoder-only model has no attention between prompt tokens.
    saved = training_flops(opt, **shape) - training_flops(opt, **shape, skip_masked=True)
    assert saved == 3 * 4 * 3 * D * ((L - 1) * (64 - 36) + L * 2 * (16 - 10))
    inner = t5.num_heads * t5.d_kv  # the encoder is bidirectional
    saved = training_flops(t5, **shape) - training_flops(t5, **shape, skip_masked=True)
    assert saved == 3 * 4 * 3 * t5.decoder_layers * inner * 2 * (16 - 10)
    # Attention of 8 prompt tokens to 5 tokens before them.
    shared = prefill_flops(opt, sequences=2, length=8, before=5) - prefill_flops(opt, sequences=2, length=8)
    assert shared == 2 * 4 * (L - 1) * D * 8 * 5


def test_prompt_flops_count_once_per_question():
    one, six = (
        training_flops(CONFIGS["decoder"], questions=1, group=g, prompt=64, response=8, skip_masked=True)
        for g in (1, 6)
    )
    prompt = 3 * prefill_flops(CONFIGS["decoder"], sequences=1, length=64, skip_masked=True)
    assert six - prompt == pytest.approx(6 * (one - prompt))


def test_unknown_models_have_zero_flops():
    assert matmul_sizes(BagConfig()) is None
    assert training_flops(BagConfig(), questions=1, group=1, prompt=1, response=1) == 0
    assert decode_flops(dataclasses.replace(BagConfig(), width=3), sequences=1, attended=1) == 0


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("TPU7x", 1153.5e12),
        ("NVIDIA H200 MIG 1g.18gb", None),
        ("NVIDIA GeForce RTX 4090", None),
        ("TPU v9", None),
        ("cpu", None),
    ],
)
def test_peak_flops_of_device_kinds(kind, peak):
    assert peak_flops(kind) == peak


@pytest.mark.parametrize("name", CONFIGS)
def test_generation_flops_are_those_of_a_forward_pass_over_all_tokens(name):
    """Decoding one token at a time has the matmuls of one pass with a causal mask: a third of a training update."""
    config = CONFIGS[name]
    found = generation_flops(config, questions=2, prompt=64, lengths=[16] * 6)
    sizes = {"questions": 2, "group": 3, "prompt": 64, "response": 16}
    prefill = {"sequences": 2, "length": 64}
    # Prompts are computed without skipping masked pairs.
    masked = prefill_flops(config, **prefill) - prefill_flops(config, **prefill, skip_masked=True)
    assert found == training_flops(config, **sizes, skip_masked=True) // 3 + masked
    assert generation_flops(BagConfig(), questions=2, prompt=64, lengths=[16]) == 0
