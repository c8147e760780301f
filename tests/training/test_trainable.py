"""Frozen parameters and LoRA: which parameters are trainable, that no others change, and what checkpoints contain."""

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
from scotd_jax.training.programs import training_programs
from scotd_jax.training.step import ONE_PART
from scotd_jax.training.trainable import combine, describe_trainable, num_params, partition
from tests.helpers.exhaustive import repeat_for
from tests.helpers.fast_compile import UNOPTIMIZED_CODE
from tests.helpers.tolerances import FLOAT32, TRAJECTORY
from tests.helpers.training_fixtures import bag_model, batches

pytestmark = pytest.mark.usefixtures("calls_are_not_retraced", "fast_compilation")
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
EXPECTED_CHANGES = {
    "freeze": {"mlp/up/bias", "mlp/down/kernel"},
    "lora": set(KERNELS),
    "lora of one kernel": {"mlp/down/kernel"},
}


def settings(**changes):
    fields = {"steps": 12, "batch_size": 4, "optimizer": ADAM, "log_every": 1, "save_every": 4}
    return config.Training(**fields | changes)


def flat(tree):
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(tree, sep="/").items()}


def initial_params(seed=0):
    return MODEL.init(jax.random.key(seed))


def train_and_load(tmp_path, mesh, **changes):
    train(MODEL, initial_params, batches(4), settings(**changes), tmp_path, mesh, seed=3)
    return flat(load_params(tmp_path / "checkpoints", MODEL.abstract(), "last")[0])


# Trainable and frozen trees


def test_all_parameters_are_trainable_by_default():
    params = initial_params()
    assert partition(params) == (params, None)
    assert combine(params, None) is params


def test_frozen_parameters_are_combined_unchanged():
    params = initial_params()
    trainable, frozen = partition(params, FROZEN)
    assert set(flat(trainable)) == {"mlp/up/bias", "mlp/down/kernel"}
    assert set(flat(frozen)) == {"embed/tokens", "mlp/up/kernel"}
    combined = combine(trainable, frozen)
    assert jax.tree.structure(combined) == jax.tree.structure(params)
    assert all(a is b for a, b in zip(jax.tree.leaves(combined), jax.tree.leaves(params), strict=True))


# Trainable parameters with LoRA of rank 8 on all kernels of attention and MLP: rank times the sum of their sides.
NAMED_STUDENTS = {
    "smollm2-135m": 30 * 8 * (2 * 1152 + 2 * 768 + 3 * 2112),
    "qwen2.5-0.5b": 24 * 8 * (2 * 1792 + 2 * 1024 + 3 * 5760),
    "qwen3-0.6b": 28 * 8 * (2 * 3072 + 2 * 2048 + 3 * 4096),
    "llama-3.2-1b": 16 * 8 * (2 * 4096 + 2 * 2560 + 3 * 10240),
    "tinyllama-1.1b": 22 * 8 * (2 * 4096 + 2 * 2304 + 3 * 7680),
    "gemma-3-270m": 18 * 8 * (2 * 1664 + 2 * 896 + 3 * 2688),
    "smollm3-3b": 36 * 8 * (2 * 4096 + 2 * 2560 + 3 * 13056),
}


@pytest.mark.slow
@pytest.mark.parametrize(("student", "expected"), NAMED_STUDENTS.items())
def test_lora_of_named_students_trains_this_many_parameters(student, expected):
    params = build(config_for(student)).abstract()
    assert describe_trainable(params, (), config.LoRA(rank=8)).startswith(f"{expected:,} of {num_params(params):,} ")


@pytest.mark.parametrize("architecture", ["opt-tiny", "t5-tiny", "decoder-tiny", "opt-350m", "t5-v1.1-small"])
def test_default_lora_targets_are_the_kernels_of_attention_and_mlp(architecture):
    params = build(config_for(architecture)).abstract()
    lora = config.LoRA(rank=4)
    trainable, frozen = jax.eval_shape(lambda p, k: partition(p, lora=lora, key=k), params, jax.random.key(0))
    shapes = {name: leaf.shape for name, leaf in flatten_dict(params, sep="/").items()}
    kernels = {name for name in shapes if name.endswith("kernel") and "project" not in name and "lm_head" not in name}
    found = {name: leaf.shape for name, leaf in flatten_dict(trainable, sep="/").items()}
    assert found == {f"{name}/A": (shapes[name][0], 4) for name in kernels} | {
        f"{name}/B": (4, shapes[name][1]) for name in kernels
    }
    combined = jax.eval_shape(combine, trainable, frozen)
    assert jax.tree.map(lambda leaf: leaf.shape, combined) == jax.tree.map(lambda leaf: leaf.shape, params)


def test_lora_starts_from_the_model_parameters():
    params = initial_params()
    trainable, frozen = partition(params, lora=LORA, key=jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, combine(trainable, frozen), params)
    assert num_params(trainable) == 2 * (8 * 2 + 2 * 16)
    wide = {"up": {"kernel": jnp.zeros((400, 300))}, "down": {"kernel": jnp.zeros((400, 300))}}
    lora = config.LoRA(rank=50, targets=(".*",))
    drawn, again, other_seed = (flat(partition(wide, lora=lora, key=jax.random.key(seed))[0]) for seed in (1, 1, 2))
    np.testing.assert_allclose(drawn["up/kernel/A"].std(), 400**-0.5, rtol=0.05)
    assert not np.array_equal(drawn["up/kernel/A"], drawn["down/kernel/A"])  # A depends on the parameter name
    assert not np.array_equal(drawn["up/kernel/A"], other_seed["up/kernel/A"])
    np.testing.assert_array_equal(drawn["up/kernel/A"], again["up/kernel/A"])
    alone = flat(partition({"up": wide["up"]}, lora=lora, key=jax.random.key(1))[0])
    np.testing.assert_array_equal(drawn["up/kernel/A"], alone["up/kernel/A"])


def test_combined_kernel_equals_the_sum_of_both_paths():
    rng = np.random.default_rng(0)
    kernel, x = (jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in ((12, 20), (7, 12)))
    lora = config.LoRA(rank=3, alpha=12.0, targets=("kernel",))
    trainable, frozen = partition({"kernel": kernel}, lora=lora, key=jax.random.key(0))
    a, b = trainable["kernel"]["A"], jnp.asarray(rng.standard_normal((3, 20), np.float32))
    trainable["kernel"]["B"] = b
    expected = x @ kernel + 4.0 * (x @ a) @ b
    found = x @ combine(trainable, frozen)["kernel"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=FLOAT32 * float(jnp.max(jnp.abs(expected))))


# Training


@pytest.mark.slow
@pytest.mark.parametrize("choice", list(CHOICES))
def test_only_trainable_parameters_change_and_interrupted_run_resumes_bit_equal(one_device, tmp_path, choice):
    changes = CHOICES[choice]

    class InterruptError(Exception):
        pass

    def interrupt(step, values):
        if step == 6:
            raise InterruptError

    with pytest.raises(InterruptError):
        train(
            MODEL,
            initial_params,
            batches(4),
            settings(**changes),
            tmp_path / "resumed",
            one_device,
            seed=3,
            log=interrupt,
        )
    evaluated = {}

    def evaluate(params, step):
        evaluated[step] = flat(params)
        return {"dev_accuracy": 1.0 if step == 6 else 0.0}

    training = settings(**changes, eval_every=6)
    train(
        MODEL, initial_params, batches(4), training, tmp_path / "uninterrupted", one_device, seed=3, evaluate=evaluate
    )
    uninterrupted = flat(load_params(tmp_path / "uninterrupted" / "checkpoints", MODEL.abstract(), "last")[0])
    best, step = load_params(tmp_path / "uninterrupted" / "checkpoints", MODEL.abstract(), "best")
    assert step == 6
    for name, value in train_and_load(tmp_path / "resumed", one_device, **changes).items():
        np.testing.assert_array_equal(value, uninterrupted[name])
        np.testing.assert_array_equal(value, evaluated[12][name])
        np.testing.assert_array_equal(flat(best)[name], evaluated[6][name])
    changed = {name for name, value in flat(initial_params()).items() if not np.array_equal(value, uninterrupted[name])}
    assert changed == EXPECTED_CHANGES[choice]


@pytest.mark.slow
def test_lora_leaves_the_base_unchanged_and_only_low_rank_matrices_have_moments(one_device):
    programs = training_programs(MODEL, settings(lora=LORA, microbatches=2), ONE_PART, one_device)
    state, batch_iterator = programs.init_state(initial_params(), 3), batches(4)
    for _ in range(4):
        state, metrics = programs.step(state, next(batch_iterator))
    before, frozen = flat(initial_params()), flat(state.frozen)
    for name, value in before.items():
        np.testing.assert_array_equal(frozen[f"{name}/base" if name in KERNELS else name], value)
    assert all(np.any(leaf) for leaf in flat(state.params).values())
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(leaf.nbytes for leaf in moments) == 2 * 4 * num_params(state.params)
    assert metrics["grad_norm"] > 0


def test_model_params_without_lora_are_not_copied(one_device):
    programs = training_programs(MODEL, settings(freeze=FROZEN), ONE_PART, one_device)
    state = programs.init_state(initial_params(), 3)
    state_leaves = {id(leaf) for leaf in jax.tree.leaves((state.params, state.frozen))}
    assert state_leaves == {id(leaf) for leaf in jax.tree.leaves(programs.model_params(state))}


@pytest.mark.slow
@pytest.mark.parametrize("name", repeat_for(["adamw", "adafactor", "muon"], kept=["muon"]))
def test_every_optimizer_trains_lora(one_device, tmp_path, name):
    losses = []
    optimizer = config.Optimizer(name=name, learning_rate=0.03, warmup_steps=2)
    training = settings(lora=dataclasses.replace(LORA, alpha=8.0), optimizer=optimizer, steps=60, save_every=0)
    train(
        MODEL,
        initial_params,
        batches(4),
        training,
        tmp_path,
        one_device,
        log=lambda _, values: losses.append(values["loss"]),
    )
    assert np.mean(losses[-5:]) < 0.8 * losses[0]


@pytest.mark.slow
@pytest.mark.usefixtures("default_compilation")
def test_gradients_of_frozen_parameters_are_not_computed(one_device):
    def flops(freeze):
        programs = training_programs(MODEL, settings(freeze=freeze), ONE_PART, one_device)
        batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, next(batches(64))))
        return programs.step.lower(programs.abstract_state, batch).compile(UNOPTIMIZED_CODE).cost_analysis()["flops"]

    tokens, flops_per_token = 64 * 2 * 6, 2 * 8 * 16
    assert flops(()) - flops(("mlp/down/kernel",)) > tokens * flops_per_token


@pytest.mark.slow
def test_lora_on_eight_devices_equals_one_device(one_device, tmp_path):
    shape = {"hidden_size": 16, "ffn_dim": 32, "vocab_size": 16, "num_attention_heads": 4, "num_hidden_layers": 1}
    model = build(config_for("opt-tiny", shape), Precision("float32"))
    eight = make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    training = settings(lora=config.LoRA(rank=2), batch_size=8, steps=6, optimizer=ADAM)
    found = []
    for name, mesh in (("one", one_device), ("eight", eight)):
        train(model, None, batches(8), training, tmp_path / name, mesh, seed=1)
        found.append(flat(load_params(tmp_path / name / "checkpoints", model.abstract(), "last")[0]))
    before = flat(model.init(jax.random.key(1)))
    for name, value in found[0].items():
        scale = float(np.max(np.abs(value)))
        np.testing.assert_allclose(found[1][name], value, rtol=0, atol=TRAJECTORY * scale, err_msg=name)
        assert np.array_equal(value, before[name]) is not name.endswith("kernel")

    programs = training_programs(model, training, ONE_PART, eight)
    layer, base = (tree["layers"]["0"] for tree in (programs.abstract_state.params, programs.abstract_state.frozen))
    for low_rank, kernel, spec in (
        (layer["mlp"]["up"]["kernel"], base["mlp"]["up"]["kernel"], P("fsdp", "tensor")),
        (layer["attn"]["o"]["kernel"], base["attn"]["o"]["kernel"], P("tensor", "fsdp")),
    ):
        assert kernel["base"].sharding.spec == spec
        assert low_rank["A"].sharding.spec == P(spec[0], None)
        assert low_rank["B"].sharding.spec == P(None, spec[1])
        assert kernel["scale"].sharding.spec == P()
    moments = [leaf for leaf in jax.tree.leaves(programs.abstract_state.opt_state) if leaf.shape == (2, 32)]
    assert {leaf.sharding.spec for leaf in moments} == {P(None, "tensor")}


# Invalid settings


@pytest.mark.parametrize(
    ("freeze", "lora", "message"),
    [
        (
            ("embd/tokens",),
            {},
            r"freeze: 'embd/tokens' matches no parameter, .*; did you mean 'embed/tokens'\? There are",
        ),
        (("embed/.*", "embed"), {}, "freeze: 'embed' matches no parameter, as a whole path; .*mlp/up/bias"),
        ((".*",), {}, r"freeze: '\.\*' leave no trainable parameters; there are .*embed/tokens"),
        (("layers/[",), {}, r"freeze: 'layers/\[' is not a regular expression"),
        ((), {"rank": -1}, "rank: expected 0 .* found -1"),
        ((), {"rank": 9, "targets": KERNELS}, r"lora.rank: 9 exceeds a side of mlp/.*/kernel, \[(8, 16|16, 8)\]"),
        ((), {"rank": 2, "targets": ("mlp/ip/kernel",)}, "lora.targets: 'mlp/ip/kernel' matches no .*'mlp/up/kernel'"),
        ((), {"rank": 2, "targets": ("mlp/.*",)}, r"targets: mlp/up/bias is not a matrix, its shape is \[16\]"),
        ((), {"rank": 2, "targets": ()}, "targets:  leave no trainable parameters"),
        (("mlp/.*",), {"rank": 2, "targets": KERNELS}, "without those that training.freeze 'mlp/.*' removes"),
    ],
)
def test_invalid_patterns_and_ranks_are_refused(one_device, tmp_path, freeze, lora, message):
    training = settings(freeze=freeze, lora=config.LoRA(**lora))
    with pytest.raises(InputError, match=rf"^training\..*{message}"):
        train(MODEL, None, batches(4), training, tmp_path, one_device)


@pytest.mark.slow
def test_checkpoint_with_other_trainable_parameters_is_refused(one_device, tmp_path):
    train_and_load(tmp_path / "plain", one_device)
    with pytest.raises(InputError, match=r"another model: embed/tokens is \[16, 8\] there and absent in this config"):
        train_and_load(tmp_path / "plain", one_device, freeze=FROZEN)
    train_and_load(tmp_path / "lora", one_device, lora=LORA)
    with pytest.raises(InputError, match=r"another model: mlp/down/kernel/A is \[16, 2\] there and \[16, 3\] in this"):
        train_and_load(tmp_path / "lora", one_device, lora=dataclasses.replace(LORA, rank=3))
    with pytest.raises(InputError, match=r"another model: embed/tokens is absent there and \[16, 8\] in this"):
        train_and_load(tmp_path / "lora", one_device)
