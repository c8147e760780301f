"""The kernels for TPUs and GPUs, interpreted on CPUs, equal the reference of grouped attention."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from scotd_jax import config
from scotd_jax.corpus.batching import collate
from scotd_jax.corpus.batching.shapes import Shape
from scotd_jax.distributed.mesh import make_abstract_mesh, make_mesh
from scotd_jax.errors import InputError
from scotd_jax.models.attention import causal_mask, grouped_attention_reference
from scotd_jax.models.forward_options import ForwardOptions
from scotd_jax.models.kernels import fused_attention_gpu, fused_attention_tpu
from scotd_jax.models.kernels.fused_attention import FusedAttention, select_attention
from scotd_jax.models.packed_masks import packed_response_mask
from scotd_jax.training.startup_check import check_against_pairs
from scotd_jax.training.step import make_loss_fn
from tests.helpers.exhaustive import repeat_for
from tests.helpers.tolerances import FLOAT32, GRADIENT
from tests.models.test_attention import all_equations, assert_close_in_bfloat16, assert_zeros, close, value_and_gradient
from tests.models.test_model_invariants import model, params
from tests.models.test_packed_masks import questions

pytestmark = pytest.mark.usefixtures("fast_compilation")
FUSED = FusedAttention(make_abstract_mesh(config.Mesh(), 1), "tpu", interpret=True)
ON_GPU = dataclasses.replace(FUSED, platform="gpu")

# B, G, R, query heads, key heads, head width, (axes of the mask, length) of every segment, kind of mask in a response
TPU_CASES = {
    "responses": (2, 3, 20, 2, 2, 8, (("B", 30),), "causal"),
    "prompts, three heads in one block": (2, 1, 70, 3, 3, 64, (), "causal"),
    "packed, grouped queries": (2, 2, 40, 8, 4, 64, (("BGR", 140),), "packed"),
    "wide, grouped queries": (1, 2, 33, 4, 2, 128, (("B", 130),), "causal"),
    "cross-attention": (2, 3, 20, 4, 4, 64, (("B", 30),), ""),
    "two segments": (2, 2, 10, 2, 1, 8, (("B", 9), ("BG", 20)), "causal"),
}
GPU_CASES = {
    "question, several tiles": (2, 3, 20, 2, 2, 8, (("B", 30),), "causal"),
    "packed, grouped queries, with bias": (2, 2, 20, 4, 2, 24, (("BGR", 20),), "packed"),
}
CASES = TPU_CASES | GPU_CASES


@pytest.fixture(autouse=True)
def several_blocks_of_rows(monkeypatch):
    """Makes blocks of 32 or 16 query rows, so that a response has several blocks and does not fill the last one."""
    monkeypatch.setattr(fused_attention_tpu, "MAX_SCORES", 1)
    monkeypatch.setattr(fused_attention_gpu, "MAX_ROWS", 16)


def arrays(case, seed, dtype="float32"):
    """Returns random inputs and masks like `test_attention.arrays`. Some rows may be fully masked."""
    B, G, R, H, K, Dh, segments, own = CASES[case]
    rng, sizes = np.random.default_rng(seed), {"B": B, "G": G, "R": R}
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    shared = [(normal(B, K, S, Dh), normal(B, K, S, Dh)) for _, S in segments]
    masks = [rng.random((*(sizes[axis] for axis in axes), S)) < rng.choice([0, 0.1, 0.9]) for axes, S in segments]
    own_masks = {"": [], "causal": [causal_mask(R, R)]}
    if own == "packed":
        positions = jnp.asarray(rng.random((B, G, R)) > 0.2, jnp.int32)
        own_masks[own] = [packed_response_mask(positions) & rng.choice([True, False], (B, G, R, 1))]
    own_kv = [(normal(B, G, K, R, Dh), normal(B, G, K, R, Dh)) for _ in own_masks[own]]
    biases = [normal(1, 1, H, R, R) if "bias" in case else None for _ in own_kv]
    return (normal(B, G, R, H, Dh), shared, own_kv, biases), jax.tree.map(jnp.asarray, (masks, own_masks[own]))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_fused_attention_equals_reference(case, seed):
    inputs, masks = arrays(case, seed)
    (_, got), d_got = value_and_gradient(ON_GPU if case in GPU_CASES else FUSED)(inputs, masks)
    (_, want), d_want = value_and_gradient(grouped_attention_reference)(inputs, masks)
    close(got, want, FLOAT32)
    close(d_got, d_want, GRADIENT)


def test_fully_masked_rows_of_fused_attention_are_zero():
    for case, attention in (("responses", FUSED), ("question, several tiles", ON_GPU)):
        inputs, masks = arrays(case, 0)
        assert_zeros(attention, inputs, jax.tree.map(jnp.zeros_like, masks))


def test_fused_attention_in_bfloat16_is_close():
    inputs, masks = arrays("wide, grouped queries", 0)
    assert_close_in_bfloat16(FUSED, grouped_attention_reference, inputs, masks)


def num_kernels(attention, inputs, masks) -> int:
    jaxpr = jax.make_jaxpr(value_and_gradient(attention))(inputs, masks).jaxpr
    return sum(e.primitive.name == "pallas_call" for e in all_equations(jaxpr.eqns))


def test_unsupported_calls_fall_back_to_xla():
    inputs, masks = arrays("responses", 0)
    assert num_kernels(FUSED, inputs, masks) == 2
    assert num_kernels(ON_GPU, inputs, masks) == 4, "output, derivatives of the query and of two blocks of keys"
    query, shared, own, _ = inputs
    for_each_response = query, shared, own, [jnp.ones((2, 3, 2, 20, 20))]
    assert num_kernels(ON_GPU, for_each_response, masks) == 0
    wide = jax.tree.map(lambda x: jnp.zeros((*x.shape[:-1], fused_attention_gpu.MAX_HEAD_WIDTH + 1)), inputs[:3])
    assert num_kernels(ON_GPU, (*wide, [None]), masks) == 0
    biased = query, shared, own, [jnp.ones((1, 1, 2, 20, 20))]
    assert num_kernels(FUSED, biased, masks) == 0
    whole_batch = jax.tree.map(lambda x: x[:1], shared)
    assert num_kernels(FUSED, (query, whole_batch, own, [None]), ([masks[0][0][:1]], masks[1])) == 0
    uneven = dataclasses.replace(FUSED, mesh=make_abstract_mesh(config.Mesh(), 4))
    assert num_kernels(uneven, inputs, masks) == 0
    long, mask = jnp.zeros((2, 2, fused_attention_tpu.MAX_KEYS, 8)), jnp.ones((2, fused_attention_tpu.MAX_KEYS), bool)
    assert num_kernels(FUSED, (query, [(long, long)], own, [None]), ([mask], masks[1])) == 0


@pytest.mark.parametrize("attention", [FUSED, ON_GPU], ids=["tpu", "gpu"])
def test_fused_attention_saves_no_scores(attention):
    B, G, R, H, S, Dh = 1, 5, 7, 1, 64, 32
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)  # noqa: E731

    def call(query, shared, own):
        segments = [(shared, shared, jnp.ones((B, S), bool))]
        return attention(query, segments, [(own, own, causal_mask(R, R), None)], 1.0)

    args = shape(B, G, R, H, Dh), shape(B, H, S, Dh), shape(B, G, H, R, Dh)
    saved = jax.eval_shape(lambda *a: jax.vjp(call, *a)[1], *args)
    assert max(x.size for x in jax.tree.leaves(saved)) < B * G * R * H * S


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "remat"),
    repeat_for([("opt", "none"), ("decoder", "dots"), ("t5-v1.0", "full")], kept=[("t5-v1.0", "full")]),
)
def test_fused_attention_gives_the_same_loss_and_gradient(kind, remat):
    """The batch has two rows of two questions each. The decoder uses a scan. In T5 only cross-attention is fused."""
    start, options = model(kind).start_token, ForwardOptions(remat=remat, scan_layers=kind == "decoder")
    rows = questions(3, [(4, [3, 5]), (6, [4]), (2, [1]), (5, [5, 2])])
    batch = collate.collate_packed([rows[:2], rows[2:]], Shape(2, 12, 4, 10, packed=True), start)

    def loss_and_gradient(attention):
        loss = make_loss_fn(model(kind), 7, options=dataclasses.replace(options, attention=attention))
        return jax.jit(jax.value_and_grad(lambda p, batch: loss(p, batch)[0].mean()))(params(kind), batch)

    close(loss_and_gradient(FUSED), loss_and_gradient(None), GRADIENT)


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_each_device_computes_its_own_questions_and_heads(platform):
    """The bias is that of all questions, so its derivative is a sum over devices."""
    mesh = make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    split = lambda *axes: NamedSharding(mesh, PartitionSpec(("data", "fsdp"), *axes))  # noqa: E731
    rng = np.random.default_rng(0)
    array = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    width = {"tpu": 64, "gpu": 16}[platform]
    query, shared, own = array(4, 2, 10, 4, width), array(4, 4, 12, width), array(4, 2, 4, 10, width)
    bias = array(1, 1, 4, 10, 10) if platform == "gpu" else None
    mask = jnp.asarray(rng.random((4, 12)) < 0.7)

    def total(attention, query, shared, own, bias, mask):
        out = attention(query, [(shared, 2 * shared, mask)], [(own, 3 * own, causal_mask(10, 10), bias)], 0.3)
        return jnp.square(out).sum(), out

    def run(attention, *args):
        step = jax.jit(jax.value_and_grad(lambda *a: total(attention, *a), (0, 1, 2, 3), has_aux=True))
        return step.lower(*args).compile(), step(*args)

    one_copy = None if bias is None else NamedSharding(mesh, PartitionSpec())
    shardings = split(None, None, "tensor"), split("tensor"), split(None, "tensor"), one_copy, split()
    inputs = query, shared, own, bias, mask
    arguments = jax.tree.map(jax.device_put, inputs, shardings)
    compiled, got = run(FusedAttention(mesh, platform, interpret=True), *arguments)
    close(got, run(grouped_attention_reference, *inputs)[1], GRADIENT)
    collectives = set(re.findall(r"all-gather|all-to-all|collective-permute|reduce-scatter", compiled.as_text()))
    assert not collectives - ({"all-gather"} if platform == "gpu" else set()), "devices communicate only sums"


@pytest.mark.slow
def test_startup_check_compares_fused_attention_with_xla(one_device):
    m = model("opt")
    rows = [questions(3, [(4, [3, 5])]), questions(4, [(5, [2])])]
    batch = {"train": collate.collate_packed(rows, Shape(2, 6, 2, 8, packed=True), None)}
    assert check_against_pairs(m, params("opt"), batch, one_device, FUSED)["train"] < FLOAT32

    def ignores_own_masks(query, segments, own, scale):
        return FUSED(query, segments, [(k, v, jnp.ones_like(mask), None) for k, v, mask, _ in own], scale)

    with pytest.raises(RuntimeError, match=r"training\.attention=xla trains without fused attention"):
        check_against_pairs(m, params("opt"), batch, one_device, ignores_own_masks)


def test_fused_attention_is_refused_on_other_platforms(one_device):
    with pytest.raises(InputError, match=r'training\.attention: "fused" is for TPUs and GPUs.* are cpu'):
        select_attention("fused", one_device)
    assert select_attention("xla", one_device) is None
