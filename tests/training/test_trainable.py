"""Freezing and LoRA: which numbers learn, that no other one moves, and what is left of it in a checkpoint."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import PartitionSpec as P

from scotd_jax import config
from scotd_jax.distributed.mesh import make_mesh
from scotd_jax.errors import InputError
from scotd_jax.models.api import Precision
from scotd_jax.models.registry import build, config_for
from scotd_jax.training.checkpoints import load_params
from scotd_jax.training.loop import train
from scotd_jax.training.programs import programs_of
from scotd_jax.training.step import ONE_PART
from scotd_jax.training.trainable import combine, count, split
from tests.helpers.tolerances import FLOAT32, TRAJECTORY
from tests.helpers.training_fixtures import bag_model, batches

pytestmark = pytest.mark.usefixtures("calls_are_not_retraced", "compiled_in_a_hurry")
MODEL = bag_model()
KERNELS = ("mlp/up/kernel", "mlp/down/kernel")
LORA = config.LoRA(rank=2, alpha=6.0, targets=(r"mlp/.*/kernel",))
FROZEN = ("embed/.*", r"mlp/up/kernel")
ADAM = config.Optimizer(learning_rate=0.05, warmup_steps=2, weight_decay=0.01)
CHOICES = {
    "freeze": {"freeze": FROZEN},
    "lora": {"lora": LORA, "optimizer": dataclasses.replace(ADAM, name="muon", moments="bfloat16")},
    "lora of one kernel": {"lora": LORA, "freeze": ("mlp/up/.*",)},
}


def settings(**changes):
    fields = {"steps": 12, "batch_size": 4, "optimizer": ADAM, "log_every": 1, "save_every": 4}
    return config.Training(**fields | changes)


def flat(tree):
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(tree, sep="/").items()}


def start(seed=0):
    return MODEL.init(jax.random.key(seed))


def trained(tmp_path, mesh, **changes):
    train(MODEL, start, batches(4), settings(**changes), tmp_path, mesh, seed=3)
    return flat(load_params(tmp_path / "checkpoints", MODEL.abstract(), "last")[0])


# Two trees


def test_without_either_everything_learns():
    params = start()
    assert split(params) == (params, None)
    assert combine(params, None) is params


def test_frozen_parameters_come_back_as_they_are():
    params = start()
    learns, frozen = split(params, FROZEN)
    assert set(flat(learns)) == {"mlp/up/bias", "mlp/down/kernel"}
    assert set(flat(frozen)) == {"embed/tokens", "mlp/up/kernel"}
    combined = combine(learns, frozen)
    assert jax.tree.structure(combined) == jax.tree.structure(params)
    assert all(a is b for a, b in zip(jax.tree.leaves(combined), jax.tree.leaves(params), strict=True))


@pytest.mark.parametrize("architecture", ["opt-tiny", "t5-tiny", "decoder-tiny", "opt-350m", "t5-v1.1-small"])
def test_the_targets_are_the_kernels_of_attention_and_mlp(architecture):
    params = build(config_for(architecture)).abstract()
    lora = config.LoRA(rank=4)
    learns, frozen = jax.eval_shape(lambda p, k: split(p, lora=lora, key=k), params, jax.random.key(0))
    shapes = {name: leaf.shape for name, leaf in flatten_dict(params, sep="/").items()}
    kernels = {name for name in shapes if name.endswith("kernel") and "project" not in name and "lm_head" not in name}
    found = {name: leaf.shape for name, leaf in flatten_dict(learns, sep="/").items()}
    assert found == {f"{name}/A": (shapes[name][0], 4) for name in kernels} | {
        f"{name}/B": (4, shapes[name][1]) for name in kernels
    }
    combined = jax.eval_shape(combine, learns, frozen)
    assert jax.tree.map(lambda leaf: leaf.shape, combined) == jax.tree.map(lambda leaf: leaf.shape, params)


def test_lora_begins_where_the_model_stands():
    params = start()
    learns, frozen = split(params, lora=LORA, key=jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, combine(learns, frozen), params)
    assert count(learns) == 2 * (8 * 2 + 2 * 16)
    wide = {"up": {"kernel": jnp.zeros((400, 300))}, "down": {"kernel": jnp.zeros((400, 300))}}
    lora = config.LoRA(rank=50, targets=(".*",))
    drawn, again, other = (flat(split(wide, lora=lora, key=jax.random.key(seed))[0]) for seed in (1, 1, 2))
    np.testing.assert_allclose(drawn["up/kernel/A"].std(), 400**-0.5, rtol=0.05)
    assert not np.array_equal(drawn["up/kernel/A"], drawn["down/kernel/A"])  # each name has its own numbers
    assert not np.array_equal(drawn["up/kernel/A"], other["up/kernel/A"])
    np.testing.assert_array_equal(drawn["up/kernel/A"], again["up/kernel/A"])
    alone = flat(split({"up": wide["up"]}, lora=lora, key=jax.random.key(1))[0])
    np.testing.assert_array_equal(drawn["up/kernel/A"], alone["up/kernel/A"])


def test_a_combined_kernel_maps_as_its_two_paths_do():
    rng = np.random.default_rng(0)
    kernel, x = (jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in ((12, 20), (7, 12)))
    lora = config.LoRA(rank=3, alpha=12.0, targets=("kernel",))
    learns, frozen = split({"kernel": kernel}, lora=lora, key=jax.random.key(0))
    a, b = learns["kernel"]["A"], jnp.asarray(rng.standard_normal((3, 20), np.float32))
    learns["kernel"]["B"] = b
    expected = x @ kernel + 4.0 * (x @ a) @ b
    found = x @ combine(learns, frozen)["kernel"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=FLOAT32 * float(jnp.max(jnp.abs(expected))))


# Training


@pytest.mark.usefixtures("compiled_for_users")
@pytest.mark.parametrize("choice", list(CHOICES))
def test_nothing_else_moves_and_a_cut_run_goes_on_bit_for_bit(one_device, tmp_path, choice):
    changes = CHOICES[choice]

    class CutError(Exception):
        pass

    def cut(step, values):
        if step == 6:
            raise CutError

    with pytest.raises(CutError):
        train(MODEL, start, batches(4), settings(**changes), tmp_path / "cut", one_device, seed=3, log=cut)
    seen = {}

    def evaluate(params, step):
        seen[step] = flat(params)
        return {"dev_accuracy": 1.0 if step == 6 else 0.0}

    spec = settings(**changes, eval_every=6)
    train(MODEL, start, batches(4), spec, tmp_path / "whole", one_device, seed=3, evaluate=evaluate)
    whole = flat(load_params(tmp_path / "whole" / "checkpoints", MODEL.abstract(), "last")[0])
    best, step = load_params(tmp_path / "whole" / "checkpoints", MODEL.abstract(), "best")
    assert step == 6
    for name, value in trained(tmp_path / "cut", one_device, **changes).items():
        np.testing.assert_array_equal(value, whole[name])
        np.testing.assert_array_equal(value, seen[12][name])
        np.testing.assert_array_equal(flat(best)[name], seen[6][name])
    moved = {name for name, value in flat(start()).items() if not np.array_equal(value, whole[name])}
    assert (
        moved
        == {
            "freeze": {"mlp/up/bias", "mlp/down/kernel"},
            "lora": set(KERNELS),
            "lora of one kernel": {"mlp/down/kernel"},
        }[choice]
    )


@pytest.mark.usefixtures("compiled_for_users")
def test_the_base_is_untouched_and_only_thin_matrices_have_moments(one_device):
    programs = programs_of(MODEL, settings(lora=LORA, microbatches=2), ONE_PART, one_device)
    state, loader = programs.start(start(), 3), batches(4)
    for _ in range(4):
        state, metrics = programs.step(state, next(loader))
    before, frozen = flat(start()), flat(state.frozen)
    for name, value in before.items():
        np.testing.assert_array_equal(frozen[f"{name}/base" if name in KERNELS else name], value)
    assert all(np.any(leaf) for leaf in flat(state.params).values())
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(leaf.nbytes for leaf in moments) == 2 * 4 * count(state.params)
    assert metrics["grad_norm"] > 0


def test_without_lora_parameters_are_those_of_the_state_and_no_copies(one_device):
    programs = programs_of(MODEL, settings(freeze=FROZEN), ONE_PART, one_device)
    state = programs.start(start(), 3)
    there = {id(leaf) for leaf in jax.tree.leaves((state.params, state.frozen))}
    assert there == {id(leaf) for leaf in jax.tree.leaves(programs.combined(state))}


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon"])
def test_every_optimizer_learns_with_thin_matrices(one_device, tmp_path, name):
    losses = []
    optimizer = config.Optimizer(name=name, learning_rate=0.03, warmup_steps=2)
    spec = settings(lora=dataclasses.replace(LORA, alpha=8.0), optimizer=optimizer, steps=60, save_every=0)
    train(MODEL, start, batches(4), spec, tmp_path, one_device, log=lambda _, values: losses.append(values["loss"]))
    assert np.mean(losses[-5:]) < 0.8 * losses[0]


@pytest.mark.usefixtures("compiled_for_users")
def test_gradients_of_frozen_parameters_are_not_computed(one_device):
    def flops(freeze):
        programs = programs_of(MODEL, settings(freeze=freeze), ONE_PART, one_device)
        batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, next(batches(64))))
        return programs.step.lower(programs.abstract, batch).compile().cost_analysis()["flops"]

    tokens, product = 64 * 2 * 6, 2 * 8 * 16
    assert flops(()) - flops(("mlp/down/kernel",)) > tokens * product


def test_eight_devices_give_what_one_gives(one_device, tmp_path):
    shape = {"hidden_size": 16, "ffn_dim": 32, "vocab_size": 16, "num_attention_heads": 4, "num_hidden_layers": 1}
    model = build(config_for("opt-tiny", shape), Precision("float32"))
    eight = make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    spec = settings(lora=config.LoRA(rank=2), batch_size=8, steps=6, optimizer=ADAM)
    found = []
    for name, mesh in (("one", one_device), ("eight", eight)):
        train(model, None, batches(8), spec, tmp_path / name, mesh, seed=1)
        found.append(flat(load_params(tmp_path / name / "checkpoints", model.abstract(), "last")[0]))
    before = flat(model.init(jax.random.key(1)))
    for name, value in found[0].items():
        scale = float(np.max(np.abs(value)))
        np.testing.assert_allclose(found[1][name], value, rtol=0, atol=TRAJECTORY * scale, err_msg=name)
        assert np.array_equal(value, before[name]) is not name.endswith("kernel")

    programs = programs_of(model, spec, ONE_PART, eight)
    layer, base = (tree["layers"]["0"] for tree in (programs.abstract.params, programs.abstract.frozen))
    for thin, kernel, wanted in (
        (layer["mlp"]["up"]["kernel"], base["mlp"]["up"]["kernel"], P("fsdp", "tensor")),
        (layer["attn"]["o"]["kernel"], base["attn"]["o"]["kernel"], P("tensor", "fsdp")),
    ):
        assert kernel["base"].sharding.spec == wanted
        assert thin["A"].sharding.spec == P(wanted[0], None)
        assert thin["B"].sharding.spec == P(None, wanted[1])
        assert kernel["scale"].sharding.spec == P()
    moments = [leaf for leaf in jax.tree.leaves(programs.abstract.opt_state) if leaf.shape == (2, 32)]
    assert {leaf.sharding.spec for leaf in moments} == {P(None, "tensor")}


# Refusals


@pytest.mark.parametrize(
    ("freeze", "lora", "message"),
    [
        (("embd/tokens",), {}, r"freeze: 'embd/tokens' fits no parameter, .*; did you mean 'embed/tokens'\? There are"),
        (("embed/.*", "embed"), {}, "freeze: 'embed' fits no parameter, as a whole path; .*mlp/up/bias"),
        ((".*",), {}, r"freeze: '\.\*' leave nothing to learn; there are .*embed/tokens"),
        (("layers/[",), {}, r"freeze: 'layers/\[' is not a regular expression"),
        ((), {"rank": -1}, "rank: expected 0 .* found -1"),
        ((), {"rank": 9, "targets": KERNELS}, r"lora.rank: 9 is more than a side of mlp/.*/kernel, \[(8, 16|16, 8)\]"),
        ((), {"rank": 2, "targets": ("mlp/ip/kernel",)}, "lora.targets: 'mlp/ip/kernel' fits no .*'mlp/up/kernel'"),
        ((), {"rank": 2, "targets": ("mlp/.*",)}, r"targets: mlp/up/bias is no matrix, its shape is \[16\]"),
        ((), {"rank": 2, "targets": ()}, "targets:  leave nothing to learn"),
        (("mlp/.*",), {"rank": 2, "targets": KERNELS}, "without those that training.freeze 'mlp/.*' takes out"),
    ],
)
def test_patterns_that_do_not_fit_are_refused(one_device, tmp_path, freeze, lora, message):
    spec = settings(freeze=freeze, lora=config.LoRA(**lora))
    with pytest.raises(InputError, match=rf"^training\..*{message}"):
        train(MODEL, None, batches(4), spec, tmp_path, one_device)


def test_a_checkpoint_of_another_choice_is_refused(one_device, tmp_path):
    trained(tmp_path / "plain", one_device)
    with pytest.raises(InputError, match=r"another model: embed/tokens is \[16, 8\] there and absent in this config"):
        trained(tmp_path / "plain", one_device, freeze=FROZEN)
    trained(tmp_path / "lora", one_device, lora=LORA)
    with pytest.raises(InputError, match=r"another model: mlp/down/kernel/A is \[16, 2\] there and \[16, 3\] in this"):
        trained(tmp_path / "lora", one_device, lora=dataclasses.replace(LORA, rank=3))
    with pytest.raises(InputError, match=r"another model: embed/tokens is absent there and \[16, 8\] in this"):
        trained(tmp_path / "lora", one_device)
