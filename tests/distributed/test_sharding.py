"""Meshes, shardings, and equality of results on eight devices and on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from scotd_jax import config
from scotd_jax.distributed import sharding
from scotd_jax.distributed.mesh import AXES, batch_shards, make_mesh
from scotd_jax.errors import InputError
from scotd_jax.models.api import Precision
from scotd_jax.models.registry import build, config_for
from scotd_jax.training.programs import training_programs
from scotd_jax.training.step import ONE_PART, make_loss_fn
from tests.helpers.tolerances import FLOAT32, GRADIENT
from tests.helpers.training_fixtures import bag_model, batch_of

pytestmark = pytest.mark.usefixtures("calls_are_not_retraced", "fast_compilation")
SMALL = {
    "opt": (
        "opt-tiny",
        {"hidden_size": 16, "ffn_dim": 32, "vocab_size": 48, "num_attention_heads": 4, "num_hidden_layers": 1},
    ),
    "t5": ("t5-tiny", {"d_model": 16, "d_ff": 32, "vocab_size": 48, "num_heads": 4, "d_kv": 4, "num_layers": 1}),
    "decoder": (
        "decoder-tiny",
        {"hidden_size": 16, "intermediate_size": 32, "vocab_size": 48, "num_hidden_layers": 1},
    ),
}


@pytest.fixture(scope="module")
def eight():
    return make_mesh(config.Mesh(data=2, fsdp=2, tensor=-1))


def small(kind):
    architecture, shape = SMALL[kind]
    return build(config_for(architecture, shape), Precision("float32"))


def training(optimizer: config.Optimizer) -> config.Training:
    return config.Training(steps=10, optimizer=optimizer)


def test_mesh_sizes_resolve_to_all_devices(eight):
    assert dict(eight.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(make_mesh(config.Mesh()).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert batch_shards(eight) == 4
    assert eight.axis_names == AXES


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": -1, "fsdp": -1}, "at most one is -1"),
        ({"data": 0}, "sizes are positive"),
        ({"data": -2}, "sizes are positive"),
        ({"data": 3}, "data=3, fsdp=1, tensor=1 does not fit the 8 devices"),
        ({"data": -1, "tensor": 3}, "does not fit the 8 devices"),
        ({"data": -1, "fsdp": 16}, "does not fit the 8 devices"),
    ],
)
def test_mesh_sizes_that_do_not_fit_raise(sizes, message):
    with pytest.raises(InputError, match=rf"config\.mesh: .*{message}"):
        make_mesh(config.Mesh(**sizes))


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        (("embed", "heads"), (16, 32), P("fsdp", "tensor")),
        (("vocab", "embed"), (48, 16), P("tensor", "fsdp")),
        (("vocab", "embed"), (47, 16), P(None, "fsdp")),  # two devices do not divide 47 rows
        (("embed", "embed"), (16, 16), P("fsdp", None)),  # a mesh axis shards one dimension only
        ((("kv", 2), None), (16, 16), P("tensor", None)),
        ((("kv", 1), None), (16, 16), P(None, None)),  # the devices would hold half a head each
        (("embed", ("heads", 9)), (16, 36), P("fsdp", None)),
        (("mlp",), (32,), P("tensor")),
    ],
)
def test_partition_spec_follows_the_logical_axis_rules(eight, axes, shape, expected):
    assert sharding.partition_spec(eight, axes, shape) == expected


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon"])
def test_optimizer_moments_are_sharded_like_their_parameters(eight, name):
    programs = training_programs(small("opt"), training(config.Optimizer(name=name, warmup_steps=0)), ONE_PART, eight)
    kernel = programs.abstract_state.params["layers"]["0"]["mlp"]["up"]["kernel"]
    assert kernel.sharding.spec == P("fsdp", "tensor")
    moments = [leaf for leaf in jax.tree.leaves(programs.abstract_state.opt_state) if leaf.shape == kernel.shape]
    assert moments
    assert all(leaf.sharding.spec == P("fsdp", "tensor") for leaf in moments)
    counters = [leaf for leaf in jax.tree.leaves(programs.abstract_state.opt_state) if leaf.shape == ()]
    assert counters
    assert all(leaf.sharding.spec == P() for leaf in counters)


def test_batch_is_sharded_by_questions(eight):
    batch = sharding.shard_batch(batch_of(8), sharding.batch_sharding(eight))
    for array in batch.values():
        assert {shard.data.shape for shard in array.addressable_shards} == {(2, *array.shape[1:])}
    np.testing.assert_array_equal(batch["targets"], batch_of(8)["targets"])


@pytest.mark.slow
@pytest.mark.usefixtures("default_compilation")
def test_initial_parameters_are_sharded_and_equal_on_every_mesh(one_device, eight):
    model = bag_model()
    initial = [
        training_programs(model, training(config.Optimizer(warmup_steps=0)), ONE_PART, mesh).init_state(None, 7).params
        for mesh in (one_device, eight)
    ]
    table = initial[1]["embed"]["tokens"]
    assert {shard.data.shape for shard in table.addressable_shards} == {(8, 4)}  # the table is [16, 8]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=FLOAT32), initial[1], initial[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SMALL))
def test_loss_and_gradients_agree_on_eight_devices_and_one(one_device, eight, kind):
    model = small(kind)
    initial = model.init(jax.random.key(0))
    batch = batch_of(8, vocab=48)

    def run(mesh):
        shardings = sharding.param_shardings(mesh, model.axes(), model.abstract())
        params = sharding.shard_params(initial, shardings)

        @jax.jit
        def value_and_grad(params, batch):
            def mean(params):
                loss, correct = make_loss_fn(model, chunk=16)(params, batch)
                return loss.mean(), correct.sum

            (loss, correct), grads = jax.value_and_grad(mean, has_aux=True)(params)
            return loss, correct, jax.lax.with_sharding_constraint(grads, shardings)

        return value_and_grad(params, sharding.shard_batch(batch, sharding.batch_sharding(mesh)))

    (loss, correct, grads), (loss_8, correct_8, grads_8) = run(one_device), run(eight)
    np.testing.assert_allclose(loss_8, loss, rtol=FLOAT32)
    assert float(correct_8) == float(correct)
    table = grads_8["embed"]["tokens"]
    assert {shard.data.shape for shard in table.addressable_shards} == {(24, 8)}  # the table is [48, 16]
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(grads))
    assert largest > 0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=GRADIENT * largest),
        grads_8,
        grads,
    )
