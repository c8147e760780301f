"""Scan over layers: same loss, gradient and update as unrolled layers, and a program size independent of depth."""

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
from tests.helpers.exhaustive import repeat_for
from tests.helpers.tolerances import BFLOAT16, FLOAT32, GRADIENT
from tests.helpers.training_fixtures import batch_of
from tests.models.test_attention import all_equations, close
from tests.models.test_forward_options import gradients_by_remat
from tests.models.test_model_invariants import KINDS, V
from tests.models.test_packed_masks import questions

pytestmark = pytest.mark.usefixtures("calls_are_not_retraced", "fast_compilation")
LAYERS = 2


def deep(kind, layers, compute="float32"):
    """Returns a model with this number of layers."""
    architecture, shape = KINDS[kind]
    name = "num_layers" if kind.startswith("t5") else "num_hidden_layers"
    return build(config_for(architecture, {**shape, name: layers}), Precision(compute))


@functools.cache
def params(kind, layers):
    """Returns random parameters, so that every layer is different and every parameter matters."""
    leaves, tree = jax.tree.flatten(deep(kind, layers).abstract())
    rng = np.random.default_rng(0)
    return tree.unflatten([jnp.asarray(rng.normal(size=x.shape) * 0.3, jnp.float32) for x in leaves])


def value_and_gradient(kind, batch, compute="float32", **options):
    loss = make_loss_fn(deep(kind, LAYERS, compute), options=ForwardOptions(**options))
    run = jax.jit(jax.value_and_grad(lambda p, batch, key: loss(p, batch, key)[0].mean()))
    return run(params(kind, LAYERS), batch, jax.random.key(1))


def packed(start):
    """Returns a packed batch with two rows of two questions each."""
    rows = questions(0, [(4, [3, 5, 2]), (6, [1]), (5, [4, 4]), (1, [2])])
    batch = collate.collate_packed([rows[:2], rows[2:]], Shape(2, 12, 4, 10, packed=True), start)
    assert "questions" in batch
    return batch


DROPOUT = {"dropout": 0.2}
CASES = {  # every option occurs in a case
    "opt": {},
    "opt-350m": DROPOUT,
    "t5-v1.0": DROPOUT | {"remat": "full"},
    "t5-v1.1": {"remat": "dots"},
    "decoder": DROPOUT | {"remat": "dots"},
    "gemma3": DROPOUT,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", repeat_for(CASES, kept=("t5-v1.1", "gemma3")))
def test_scan_gives_loss_and_gradient_of_unrolled_layers(kind):
    batch = packed(deep(kind, LAYERS).start_token) if "dropout" in CASES[kind] else batch_of(2, vocab=V)
    close(*(value_and_gradient(kind, batch, scan_layers=scan, **CASES[kind]) for scan in (True, False)), GRADIENT)


@pytest.mark.slow
def test_scan_rounds_like_unrolled_layers():
    """Gradients keep float32 precision: neither they nor the stacked parameters are rounded to bfloat16."""
    batch = batch_of(2, vocab=V)
    scanned, unrolled = (value_and_gradient("opt", batch, "bfloat16", scan_layers=scan) for scan in (True, False))
    close(scanned, unrolled, BFLOAT16 / 10)
    kernels = [leaf for leaf in jax.tree.leaves(scanned[1]["layers"]) if leaf.ndim == 2]
    for leaf in kernels:  # entries are zero where a ReLU is inactive for all tokens
        rounded = leaf.astype(jnp.bfloat16).astype(jnp.float32)
        assert np.mean(np.asarray(rounded) != leaf) > 0.9 * np.mean(np.asarray(leaf) != 0) > 0


def num_matmuls(kind, layers, scan_layers):
    """Returns the number of matmuls in the gradient program."""
    loss = make_loss_fn(deep(kind, layers), options=ForwardOptions(scan_layers=scan_layers))
    grad = jax.grad(lambda p, batch: loss(p, batch)[0].mean())
    return jax.jit(grad).lower(deep(kind, layers).abstract(), batch_of(2, vocab=V)).as_text().count("dot_general")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["opt", "t5-v1.1"])
def test_scanned_program_does_not_grow_with_depth(kind):
    few, many, unrolled = num_matmuls(kind, 2, True), num_matmuls(kind, 5, True), num_matmuls(kind, 5, False)
    assert few == many
    assert 2 * many < unrolled


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["opt", "t5-v1.1", "decoder"])
def test_scan_saves_no_copies_of_parameters(kind):
    """Compares the residuals with those of unrolled layers: only the stacked kernels are added."""
    batch, saved_bytes = batch_of(2, vocab=V, G=2, P=8, R=24), {}
    model, layers = deep(kind, 4, "bfloat16"), params(kind, 4)
    kernels = {leaf.shape for leaf in jax.tree.leaves(layers) if leaf.ndim == 2}
    for scan in (True, False):
        loss = make_loss_fn(model, options=ForwardOptions(scan_layers=scan))
        jaxpr = jax.make_jaxpr(jax.grad(lambda p, batch, loss=loss: loss(p, batch)[0].mean()))(layers, batch)
        scans = [e for e in all_equations(jaxpr.jaxpr.eqns) if e.primitive.name == "scan" and e.params["length"] == 4]
        forward = [e for e in scans if not e.params["reverse"]]
        assert bool(forward) == scan
        for equation in forward:
            assert not [out for out in equation.outvars if out.aval.shape[1:] in kernels]
        saved = jax.eval_shape(lambda p, b, loss=loss: jax.vjp(lambda q: loss(q, b)[0].sum, p)[1], layers, batch)
        stacks = kernels | {(4, *shape) for shape in kernels}
        sizes = [leaf.dtype.itemsize * math.prod(leaf.shape) for leaf in jax.tree.leaves(saved)
                 if leaf.shape not in stacks]  # fmt: skip
        saved_bytes[scan] = sum(sizes)
    assert saved_bytes[True] < 1.05 * saved_bytes[False]


@pytest.mark.exhaustive
@pytest.mark.usefixtures("default_compilation")
def test_remat_saves_memory_in_a_scan():
    compiled = gradients_by_remat(8, scan_layers=True)
    memory = {remat: program.memory_analysis().temp_size_in_bytes for remat, program in compiled.items()}
    assert memory["dots"] < 0.9 * memory["none"]
    assert memory["full"] < 0.75 * memory["dots"]


@pytest.mark.slow
def test_scan_on_eight_devices_gives_the_update_of_one_device_unrolled(one_device):
    settings = {"microbatches": 2, "optimizer": config.Optimizer(warmup_steps=0), **DROPOUT}
    initial, model, states = params("t5-v1.1", LAYERS), deep("t5-v1.1", LAYERS), []
    for scan, mesh in (("off", one_device), ("on", make_mesh(config.Mesh(data=2, fsdp=2, tensor=2)))):
        programs = training_programs(model, config.Training(scan_layers=scan, **settings), ONE_PART, mesh)
        batch = {"train": sharding.shard_batch(batch_of(8, vocab=V), programs.batch_sharding)}
        state, metrics = programs.step(programs.init_state(initial, 0), batch, programs.dropout_seed(3))
        states.append((optax.tree_utils.tree_get(state.opt_state, "mu"), metrics))
    (mu, metrics), (mu_8, metrics_8) = jax.tree.map(np.asarray, states)
    for name, value in metrics.items():
        np.testing.assert_allclose(metrics_8[name], value, rtol=FLOAT32)
    close(mu_8, mu, GRADIENT)


@pytest.mark.slow
def test_frozen_and_lora_layers_get_the_same_update_in_a_scan(one_device):
    settings = {"freeze": ("embed/.*", "layers/0/.*"), "lora": config.LoRA(rank=2)}
    found = []
    for scan in ("on", "off"):
        training = config.Training(scan_layers=scan, optimizer=config.Optimizer(warmup_steps=0), **settings)
        programs = training_programs(deep("opt", LAYERS), training, ONE_PART, one_device)
        state, metrics = programs.step(programs.init_state(params("opt", LAYERS), 0), {"train": batch_of(4, vocab=V)})
        found.append((optax.tree_utils.tree_get(state.opt_state, "mu"), metrics["grad_norm"]))
    assert found[0][1] > 0
    close(*found, GRADIENT)


def test_scan_is_the_default_on_accelerators():
    auto, on, off = (config.Training(scan_layers=value) for value in ("auto", "on", "off"))
    assert auto == config.Training()
    assert not any(scans_layers(auto, platform) for platform in ("cpu", ""))
    assert all(scans_layers(auto, platform) for platform in ("tpu", "gpu", "cuda"))
    assert scans_layers(on, "cpu")
    assert not scans_layers(off, "tpu")
