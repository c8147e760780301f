"""The kernels for TPUs, interpreted on CPUs, mean what the reference of grouped attention says."""

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
from scotd_jax.models.attention import causal, grouped_attention_reference
from scotd_jax.models.forward_options import ForwardOptions
from scotd_jax.models.kernels import fused_attention_tpu
from scotd_jax.models.kernels.fused_attention import Fused, attention
from scotd_jax.models.packed_masks import own_response
from scotd_jax.training.startup_check import check_against_pairs
from scotd_jax.training.step import make_loss_fn
from tests.helpers.tolerances import FLOAT32, GRADIENT
from tests.models.test_attention import close, flat, gives_zeros, is_close_in_bfloat16, value_and_gradient
from tests.models.test_models import model, params
from tests.models.test_packed_masks import questions

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
FUSED = Fused(make_abstract_mesh(config.Mesh(), 1), interpret=True)

# B, G, R, query heads, key heads, width, (axes of its mask, length) of every segment, what is seen of the own tokens
CASES = {
    "responses": (2, 3, 20, 2, 2, 8, (("B", 30),), "before"),
    "prompts, three heads in one block": (2, 1, 70, 3, 3, 64, (), "before"),
    "packed, grouped queries": (2, 2, 40, 8, 4, 64, (("BGR", 140),), "packed"),
    "wide, grouped queries": (1, 2, 33, 4, 2, 128, (("B", 130),), "before"),
    "cross-attention": (2, 3, 20, 4, 4, 64, (("B", 30),), ""),
    "two segments": (2, 2, 10, 2, 1, 8, (("B", 9), ("BG", 20)), "before"),
}


@pytest.fixture(autouse=True)
def several_blocks_of_rows(monkeypatch):
    """Blocks of 32 rows: several to a response, of which the last one reaches beyond it."""
    monkeypatch.setattr(fused_attention_tpu, "SCORES", 1)


def arrays(case, seed, dtype="float32"):
    """Random inputs of a case, as tests.models.test_attention.arrays makes them. Some rows may look at nothing."""
    B, G, R, H, K, Dh, segments, own = CASES[case]
    rng, sizes = np.random.default_rng(seed), {"B": B, "G": G, "R": R}
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    shared = [(normal(B, K, S, Dh), normal(B, K, S, Dh)) for _, S in segments]
    masks = [rng.random((*(sizes[axis] for axis in axes), S)) < rng.choice([0, 0.1, 0.9]) for axes, S in segments]
    seen = {"": [], "before": [causal(R, R)]}
    if own == "packed":
        positions = jnp.asarray(rng.random((B, G, R)) > 0.2, jnp.int32)
        seen[own] = [own_response(positions) & rng.choice([True, False], (B, G, R, 1))]
    mine = [(normal(B, G, K, R, Dh), normal(B, G, K, R, Dh)) for _ in seen[own]]
    return (normal(B, G, R, H, Dh), shared, mine, [None] * len(mine)), jax.tree.map(jnp.asarray, (masks, seen[own]))


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_equals_reference(case, seed):
    inputs, masks = arrays(case, seed)
    (_, got), d_got = value_and_gradient(FUSED)(inputs, masks)
    (_, want), d_want = value_and_gradient(grouped_attention_reference)(inputs, masks)
    close(got, want, FLOAT32)
    close(d_got, d_want, GRADIENT)


def test_rows_that_may_look_at_nothing_are_zero():
    inputs, (shared, own) = arrays("responses", 0)
    nothing = jax.tree.map(jnp.zeros_like, (shared, own))
    gives_zeros(FUSED, inputs, nothing)


def test_bfloat16_is_close():
    inputs, masks = arrays("wide, grouped queries", 0)
    is_close_in_bfloat16(FUSED, grouped_attention_reference, inputs, masks)


def kernels_of(attend, inputs, masks) -> int:
    jaxpr = jax.make_jaxpr(value_and_gradient(attend))(inputs, masks).jaxpr
    return sum(e.primitive.name == "pallas_call" for e in flat(jaxpr.eqns))


def test_what_does_not_fit_stays_with_xla():
    inputs, masks = arrays("responses", 0)
    assert kernels_of(FUSED, inputs, masks) == 2
    query, shared, own, _ = inputs
    biased = query, shared, own, [jnp.ones((1, 1, 2, 20, 20))]
    assert kernels_of(FUSED, biased, masks) == 0
    whole_batch = jax.tree.map(lambda x: x[:1], shared)
    assert kernels_of(FUSED, (query, whole_batch, own, [None]), ([masks[0][0][:1]], masks[1])) == 0
    uneven = Fused(make_abstract_mesh(config.Mesh(), 4), interpret=True)
    assert kernels_of(uneven, inputs, masks) == 0
    long, seen = jnp.zeros((2, 2, fused_attention_tpu.KEYS, 8)), jnp.ones((2, fused_attention_tpu.KEYS), bool)
    assert kernels_of(FUSED, (query, [(long, long)], own, [None]), ([seen], masks[1])) == 0


def test_keeps_no_scores():
    B, G, R, H, S, Dh = 1, 5, 7, 1, 64, 32
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)  # noqa: E731

    def attend(query, shared, own):
        return FUSED(query, [(shared, shared, jnp.ones((B, S), bool))], [(own, own, causal(R, R), None)], 1.0)

    args = shape(B, G, R, H, Dh), shape(B, H, S, Dh), shape(B, G, H, R, Dh)
    saved = jax.eval_shape(lambda *a: jax.vjp(attend, *a)[1], *args)
    assert max(x.size for x in jax.tree.leaves(saved)) < B * G * R * H * S


@pytest.mark.parametrize(("kind", "remat"), [("opt", "none"), ("decoder", "dots"), ("t5-v1.0", "full")])
def test_a_model_learns_the_same(kind, remat):
    """Two rows of two questions each; the decoder rolled. Of T5 what its responses see of the prompt is fused."""
    start, options = model(kind).start_token, ForwardOptions(remat=remat, scan_layers=kind == "decoder")
    rows = questions(3, [(4, [3, 5]), (6, [4]), (2, [1]), (5, [5, 2])])
    batch = collate.collate_packed([rows[:2], rows[2:]], Shape(2, 12, 4, 10, packed=True), start)

    def learnt(attend):
        loss = make_loss_fn(model(kind), 7, options=dataclasses.replace(options, attention=attend))
        return jax.jit(jax.value_and_grad(lambda p, batch: loss(p, batch)[0].mean()))(params(kind), batch)

    close(learnt(FUSED), learnt(None), GRADIENT)


def test_over_eight_devices_each_has_its_own_questions_and_heads():
    mesh = make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    split = lambda *axes: NamedSharding(mesh, PartitionSpec(("data", "fsdp"), *axes))  # noqa: E731
    rng = np.random.default_rng(0)
    array = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    query, shared, own = array(4, 2, 10, 4, 64), array(4, 4, 12, 64), array(4, 2, 4, 10, 64)
    mask = jnp.asarray(rng.random((4, 12)) < 0.7)

    def total(attend, query, shared, own, mask):
        out = attend(query, [(shared, 2 * shared, mask)], [(own, 3 * own, causal(10, 10), None)], 0.3)
        return jnp.square(out).sum(), out

    def run(attend, *args):
        step = jax.jit(jax.value_and_grad(lambda *a: total(attend, *a), (0, 1, 2), has_aux=True))
        return step.lower(*args).compile(), step(*args)

    places = split(None, None, "tensor"), split("tensor"), split(None, "tensor"), split()
    given = query, shared, own, mask
    compiled, got = run(Fused(mesh, interpret=True), *map(jax.device_put, given, places))
    close(got, run(grouped_attention_reference, *given)[1], GRADIENT)
    moved = set(re.findall(r"all-gather|all-to-all|collective-permute|reduce-scatter", compiled.as_text()))
    assert not moved, "the sum over all devices is the only thing that they tell each other"


def test_the_check_before_the_first_update_compares_with_xla(one_device):
    m = model("opt")
    rows = [questions(3, [(4, [3, 5])]), questions(4, [(5, [2])])]
    batch = {"train": collate.collate_packed(rows, Shape(2, 6, 2, 8, packed=True), None)}
    assert check_against_pairs(m, params("opt"), batch, one_device, FUSED)["train"] < FLOAT32

    def careless(query, segments, own, scale):
        return FUSED(query, segments, [(k, v, jnp.ones_like(mask), None) for k, v, mask, _ in own], scale)

    with pytest.raises(RuntimeError, match=r"training\.attention=xla trains without fused attention"):
        check_against_pairs(m, params("opt"), batch, one_device, careless)


def test_is_refused_elsewhere_and_known_to_the_plan(one_device):
    with pytest.raises(InputError, match=r'training\.attention: "fused" is for TPUs, and the devices .* are cpu'):
        attention("fused", one_device)
    assert attention("xla", one_device) is None
    assert attention("fused", make_abstract_mesh(config.Mesh(), 8)) == Fused(make_abstract_mesh(config.Mesh(), 8))
