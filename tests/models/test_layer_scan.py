"""Layers in one loop: the loss, the gradient and the update of layers written out, in a program that does not grow."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scotd_jax import config
from scotd_jax.corpus.batching import collate
from scotd_jax.corpus.batching.shapes import Shape
from scotd_jax.distributed import sharding
from scotd_jax.distributed.mesh import make_mesh
from scotd_jax.models.api import Precision
from scotd_jax.models.forward_options import ForwardOptions
from scotd_jax.models.registry import build, config_for
from scotd_jax.training.options import scans_layers
from scotd_jax.training.programs import training_programs
from scotd_jax.training.step import ONE_PART, make_loss_fn
from tests.helpers.tolerances import BFLOAT16, FLOAT32, GRADIENT
from tests.helpers.training_fixtures import batch_of
from tests.models.test_attention import close, flat
from tests.models.test_forward_options import gradients_by_remat
from tests.models.test_models import KINDS, V
from tests.models.test_packed_masks import questions

pytestmark = pytest.mark.usefixtures("calls_are_not_retraced", "compiled_in_a_hurry")
LAYERS = 2


def deep(kind, layers, compute="float32"):
    architecture, shape = KINDS[kind]
    name = "num_layers" if kind.startswith("t5") else "num_hidden_layers"
    return build(config_for(architecture, {**shape, name: layers}), Precision(compute))


@functools.cache
def params(kind, layers):
    """Random ones, so that every layer differs from the others and every part of it matters."""
    leaves, tree = jax.tree.flatten(deep(kind, layers).abstract())
    rng = np.random.default_rng(0)
    return tree.unflatten([jnp.asarray(rng.normal(size=x.shape) * 0.3, jnp.float32) for x in leaves])


def value_and_gradient(kind, batch, compute="float32", **options):
    loss = make_loss_fn(deep(kind, LAYERS, compute), options=ForwardOptions(**options))
    run = jax.jit(jax.value_and_grad(lambda p, batch, key: loss(p, batch, key)[0].mean()))
    return run(params(kind, LAYERS), batch, jax.random.key(1))


def packed(start):
    """Two rows of two questions each."""
    rows = questions(0, [(4, [3, 5, 2]), (6, [1]), (5, [4, 4]), (1, [2])])
    batch = collate.collate_packed([rows[:2], rows[2:]], Shape(2, 12, 4, 10, packed=True), start)
    assert "questions" in batch
    return batch


DROPPED = {"dropout": 0.2}
CASES = {  # everything that there is comes together with a loop in one of them
    "opt": {},
    "opt-350m": DROPPED,
    "t5-v1.0": DROPPED | {"remat": "full"},
    "t5-v1.1": {"remat": "dots"},
    "decoder": DROPPED | {"remat": "dots"},
}


@pytest.mark.parametrize("kind", CASES)
def test_a_loop_gives_loss_and_gradient_of_layers_written_out(kind):
    batch = packed(deep(kind, LAYERS).start_token) if "dropout" in CASES[kind] else batch_of(2, vocab=V)
    close(*(value_and_gradient(kind, batch, scan_layers=rolled, **CASES[kind]) for rolled in (True, False)), GRADIENT)


def test_a_loop_rounds_as_layers_written_out():
    """Derivatives are float32 sums, of parameters that were never rounded as a whole."""
    batch = batch_of(2, vocab=V)
    rolled, unrolled = (value_and_gradient("opt", batch, "bfloat16", scan_layers=rolled) for rolled in (True, False))
    close(rolled, unrolled, BFLOAT16 / 10)
    kernels = [leaf for leaf in jax.tree.leaves(rolled[1]["layers"]) if leaf.ndim == 2]
    for leaf in kernels:  # zero where a unit is off for all tokens
        short = leaf.astype(jnp.bfloat16).astype(jnp.float32)
        assert np.mean(np.asarray(short) != leaf) > 0.9 * np.mean(np.asarray(leaf) != 0) > 0


def products(kind, layers, rolled):
    """Matrix products that a compiler sees in a gradient."""
    loss = make_loss_fn(deep(kind, layers), options=ForwardOptions(scan_layers=rolled))
    grad = jax.grad(lambda p, batch: loss(p, batch)[0].mean())
    return jax.jit(grad).lower(deep(kind, layers).abstract(), batch_of(2, vocab=V)).as_text().count("dot_general")


@pytest.mark.parametrize("kind", ["opt", "t5-v1.1"])
def test_depth_adds_nothing_to_compile(kind):
    few, many, written_out = products(kind, 2, True), products(kind, 5, True), products(kind, 5, False)
    assert few == many
    assert 2 * many < written_out


@pytest.mark.parametrize("kind", ["opt", "t5-v1.1", "decoder"])
def test_the_loop_keeps_no_copy_of_what_it_reads(kind):
    """What the derivative keeps, against layers written out: kernels as they were stacked, and little more besides."""
    batch, kept = batch_of(2, vocab=V, G=2, P=8, R=24), {}
    model, layers = deep(kind, 4, "bfloat16"), params(kind, 4)
    kernels = {leaf.shape for leaf in jax.tree.leaves(layers) if leaf.ndim == 2}
    for rolled in (True, False):
        loss = make_loss_fn(model, options=ForwardOptions(scan_layers=rolled))
        jaxpr = jax.make_jaxpr(jax.grad(lambda p, batch, loss=loss: loss(p, batch)[0].mean()))(layers, batch)
        loops = [e for e in flat(jaxpr.jaxpr.eqns) if e.primitive.name == "scan" and e.params["length"] == 4]
        forward = [e for e in loops if not e.params["reverse"]]
        assert bool(forward) == rolled
        for loop in forward:
            assert not [out for out in loop.outvars if out.aval.shape[1:] in kernels]
        saved = jax.eval_shape(lambda p, b, loss=loss: jax.vjp(lambda q: loss(q, b)[0].sum, p)[1], layers, batch)
        stacks = kernels | {(4, *shape) for shape in kernels}
        sizes = [leaf.dtype.itemsize * math.prod(leaf.shape) for leaf in jax.tree.leaves(saved)
                 if leaf.shape not in stacks]  # fmt: skip
        kept[rolled] = sum(sizes)
    assert kept[True] < 1.05 * kept[False]


@pytest.mark.usefixtures("compiled_for_users")
def test_in_a_loop_remat_keeps_less():
    compiled = gradients_by_remat(8, scan_layers=True)
    held = {remat: each.memory_analysis().temp_size_in_bytes for remat, each in compiled.items()}
    assert held["dots"] < 0.9 * held["none"]
    assert held["full"] < 0.75 * held["dots"]


def test_eight_devices_with_a_loop_make_the_update_of_one_without(one_device):
    settings = {"microbatches": 2, "optimizer": config.Optimizer(warmup_steps=0), **DROPPED}
    drawn, model, states = params("t5-v1.1", LAYERS), deep("t5-v1.1", LAYERS), []
    for scan, mesh in (("off", one_device), ("on", make_mesh(config.Mesh(data=2, fsdp=2, tensor=2)))):
        programs = training_programs(model, config.Training(scan_layers=scan, **settings), ONE_PART, mesh)
        batch = {"train": sharding.shard_batch(batch_of(8, vocab=V), programs.batch_sharding)}
        state, metrics = programs.step(programs.init_state(drawn, 0), batch, programs.dropout_seed(3))
        states.append((optax.tree_utils.tree_get(state.opt_state, "mu"), metrics))
    (mu, metrics), (mu_8, metrics_8) = jax.tree.map(np.asarray, states)
    for name, value in metrics.items():
        np.testing.assert_allclose(metrics_8[name], value, rtol=FLOAT32)
    close(mu_8, mu, GRADIENT)


def test_layers_of_which_some_are_frozen_and_others_thin_learn_the_same(one_device):
    what = {"freeze": ("embed/.*", "layers/0/.*"), "lora": config.LoRA(rank=2)}
    found = []
    for scan in ("on", "off"):
        training = config.Training(scan_layers=scan, optimizer=config.Optimizer(warmup_steps=0), **what)
        programs = training_programs(deep("opt", LAYERS), training, ONE_PART, one_device)
        state, metrics = programs.step(programs.init_state(params("opt", LAYERS), 0), {"train": batch_of(4, vocab=V)})
        found.append((optax.tree_utils.tree_get(state.opt_state, "mu"), metrics["grad_norm"]))
    assert found[0][1] > 0
    close(*found, GRADIENT)


def test_it_is_the_default_where_compilers_are_slow():
    auto, on, off = (config.Training(scan_layers=each) for each in ("auto", "on", "off"))
    assert auto == config.Training()
    assert [scans_layers(auto, platform) for platform in ("cpu", "", "tpu", "gpu", "cuda")] == [
        False,
        False,
        *[True] * 3,
    ]
    assert scans_layers(on, "cpu")
    assert not scans_layers(off, "tpu")
