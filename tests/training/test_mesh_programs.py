"""Training programs on meshes, inspected without running them.

Tests the parameter shardings, the lowering of the train step for absent accelerators, and the number of collectives.
"""

import dataclasses
import functools
import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from scotd_jax import config
from scotd_jax.distributed import mesh as meshes
from scotd_jax.distributed import sharding
from scotd_jax.models.registry import PRESETS, build, config_for
from scotd_jax.training.programs import training_programs
from scotd_jax.training.step import ONE_PART
from tests.helpers.exhaustive import repeat_for

# XLA inserts collectives before it generates code, so programs compiled with fewer optimizations have the same ones.
pytestmark = pytest.mark.usefixtures("calls_are_not_retraced", "fast_compilation")
TRAINING = config.Training(steps=10, optimizer=config.Optimizer(warmup_steps=0))
SCANNED = dataclasses.replace(TRAINING, scan_layers="on")
# Expected sharding of every kind of parameter, by architecture, on a mesh with all axes.
SHARDINGS = {
    "opt-tiny": {
        "embed/positions": P(None, "fsdp"),
        "embed/tokens": P("tensor", "fsdp"),
        "final_norm/*": P(None),
        "layers/N/attn/[qkv]/kernel": P("fsdp", "tensor"),
        "layers/N/attn/[qkv]/bias": P("tensor"),
        "layers/N/attn/o/kernel": P("tensor", "fsdp"),
        "layers/N/attn/o/bias": P(None),
        "layers/N/attn_norm/*": P(None),
        "layers/N/mlp/down/bias": P(None),
        "layers/N/mlp/down/kernel": P("tensor", "fsdp"),
        "layers/N/mlp/up/bias": P("tensor"),
        "layers/N/mlp/up/kernel": P("fsdp", "tensor"),
        "layers/N/mlp_norm/*": P(None),
    },
    "flan-t5-small": {
        "embed/tokens": P("tensor", "fsdp"),
        "lm_head/kernel": P("tensor", "fsdp"),
        "(en|de)coder/final_norm/scale": P(None),
        "(en|de)coder/rel_bias": P(None, "tensor"),
        "(en|de)coder/layers/N/(attn|cross)/[qkv]/kernel": P("fsdp", "tensor"),
        "(en|de)coder/layers/N/(attn|cross)/o/kernel": P("tensor", "fsdp"),
        "(en|de)coder/layers/N/(attn|cross)_norm/scale": P(None),
        "(en|de)coder/layers/N/mlp/wi_[01]/kernel": P("fsdp", "tensor"),
        "(en|de)coder/layers/N/mlp/wo/kernel": P("tensor", "fsdp"),
        "(en|de)coder/layers/N/mlp_norm/scale": P(None),
    },
    "decoder-tiny": {
        "embed/tokens": P("tensor", "fsdp"),
        "lm_head/kernel": P("tensor", "fsdp"),
        "final_norm/scale": P(None),
        "layers/N/attn/q/kernel": P("fsdp", "tensor"),
        "layers/N/attn/[kv]/kernel": P("fsdp", "tensor"),  # whole key heads; replicated where they do not divide
        "layers/N/attn/o/kernel": P("tensor", "fsdp"),
        "layers/N/attn_norm/scale": P(None),
        "layers/N/mlp/(gate|up)/kernel": P("fsdp", "tensor"),
        "layers/N/mlp/down/kernel": P("tensor", "fsdp"),
        "layers/N/mlp_norm/scale": P(None),
    },
}


@pytest.mark.parametrize("name", SHARDINGS)
def test_sharding_of_every_parameter(name):
    model = build(config_for(name))
    shardings = sharding.param_shardings(
        meshes.make_abstract_mesh(config.Mesh(data=2, fsdp=2, tensor=2), 8), model.axes(), model.abstract()
    )
    found = {"/".join(k.key for k in path): leaf.spec for path, leaf in jax.tree_util.tree_leaves_with_path(shardings)}
    expected = {key.replace("N", r"\d+").replace("*", ".*"): spec for key, spec in SHARDINGS[name].items()}
    unused = set(expected)
    for path, spec in found.items():
        (pattern,) = [pattern for pattern in expected if re.fullmatch(pattern, path)]
        assert spec == expected[pattern], path
        unused.discard(pattern)
    assert not unused


@pytest.mark.parametrize(("tensor", "query", "key"), [(2, None, None), (3, "tensor", "tensor"), (9, "tensor", None)])
def test_heads_stay_whole(tensor, query, key):
    """SmolLM2-135M has 9 query heads and 3 key heads of width 64; two devices divide the axis, but not the heads."""
    model = build(config_for("smollm2-135m", {"num_hidden_layers": 1}))
    mesh = meshes.make_abstract_mesh(config.Mesh(tensor=tensor), tensor)
    found = sharding.param_shardings(mesh, model.axes(), model.abstract())["layers"]["0"]
    assert found["attn"]["q"]["kernel"].spec == P("fsdp", query)
    assert found["attn"]["o"]["kernel"].spec == P(query, "fsdp")
    assert found["attn"]["v"]["kernel"].spec == P("fsdp", key)


def shallow(name):
    """The preset with two layers per stack, which suffice for a scan over layers."""
    few = {"num_layers": 2} if PRESETS[name].kind == "t5" else {"num_hidden_layers": 2}
    return config_for(name, few)


def architectures() -> list[str]:
    """Returns one preset of each architecture: all whose sizes are multiples of the same mesh axes lower alike."""

    def feature(value):
        return (value % 2, value % 4) if type(value) is int else None if isinstance(value, float) else value

    def features(config):
        names = (field.name for field in dataclasses.fields(config) if not field.name.endswith("token_id"))
        return type(config), *(feature(getattr(config, name)) for name in names)

    return list({features(shallow(name)): name for name in reversed(PRESETS)}.values())


def batch_like(B, G, P, R):
    shapes = {"inputs": (B, G, R), "targets": (B, G, R), "prompt": (B, P)}
    batch = {key: jax.ShapeDtypeStruct(shape, jnp.int32) for key, shape in shapes.items()}
    batch["prompt_mask"] = jax.ShapeDtypeStruct((B, P), bool)
    return {"train": batch | {"weights": jax.ShapeDtypeStruct((B, G, R), jnp.float32)}}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    repeat_for(
        architectures(), kept=("gemma-3-270m", "qwen2.5-0.5b", "smollm2-135m", "t5-v1.1-base", "t5-tiny", "opt-350m")
    ),
)
def test_train_step_of_every_architecture_lowers_for_a_mesh_without_devices(name):
    """With a scan over layers, as on accelerators; other tests lower small unrolled models on CPU devices."""
    mesh = meshes.make_abstract_mesh(config.Mesh(data=2, fsdp=4, tensor=4), 32)
    programs = training_programs(build(shallow(name)), SCANNED, ONE_PART, mesh)
    lowered = programs.step.trace(programs.abstract_state, batch_like(16, 2, 16, 8)).lower(lowering_platforms=("tpu",))
    assert '"fsdp"' in lowered.as_text()


COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


@functools.cache
def collectives_in_step(sizes, training=TRAINING, layers=2) -> list[tuple[re.Match, str]]:
    """Collectives in the compiled train step of a small OPT on eight devices: (match, line of the program)."""
    shape = {"hidden_size": 64, "ffn_dim": 128, "num_attention_heads": 8, "vocab_size": 64, "num_hidden_layers": layers}
    model = build(config_for("opt-tiny", shape))
    programs = training_programs(model, training, ONE_PART, meshes.make_mesh(sizes))
    text = programs.step.lower(programs.abstract_state, batch_like(8, 2, 8, 8)).compile().as_text()
    return [(match, line) for line in text.splitlines() if (match := COLLECTIVE.search(line))]


def collectives(sizes) -> tuple[Counter, set[str]]:
    """Count of each collective, and the shapes of activations that collectives inside layers move.

    Shapes with four or more axes are activations; kernels have two.
    """
    found = collectives_in_step(sizes)
    shapes = {match[1] for match, line in found if "_layer_" in line}  # data parallelism may have none
    assert shapes or sizes.data == 8
    activations = {shape for shape in shapes if re.search(r"\[(\d+,){3,}\d+\]", shape)}
    return Counter(match[2] for match, _ in found), activations


@pytest.mark.slow
def test_data_parallelism_uses_only_all_reduce():
    counts, activations = collectives(config.Mesh(data=8))
    assert set(counts) == {"all-reduce"}
    assert not activations


@pytest.mark.slow
def test_fsdp_gathers_parameters_and_moves_no_activations():
    counts, activations = collectives(config.Mesh(fsdp=8))
    assert not activations
    kernels = 2 * 6
    # Kernels are gathered for prompts, for responses and again in the backward pass, because they are not stored.
    gathered = [match[1] for match, _ in collectives_in_step(config.Mesh(fsdp=8)) if match[2] == "all-gather"]
    assert 3 * kernels <= sum(not shape.startswith("s32") for shape in gathered) <= 4 * kernels  # s32: tokens
    assert counts["all-to-all"] <= 8  # token embeddings, because their table is sharded by columns


@pytest.mark.slow
def test_tensor_parallelism_reduces_once_per_sublayer_and_direction():
    counts, _ = collectives(config.Mesh(tensor=8))
    assert set(counts) == {"all-reduce"}
    # Two sublayers in each of two layers, for prompts and responses, forward and backward. The other six belong to the
    # embedding, the loss and the gradient norm.
    assert counts["all-reduce"] <= 2 * 2 * 2 * 2 + 6


@pytest.mark.slow
def test_scan_over_layers_gathers_one_layer_at_a_time():
    """The number of gathers does not depend on the number of layers, and no gather covers all layers.

    Kernels are gathered forward and backward, for prompts and responses.
    """
    few, many = (collectives_in_step(config.Mesh(fsdp=8), SCANNED, layers) for layers in (3, 5))
    gathers = [match[1] for match, line in many if match[2] == "all-gather" and "_layer_all" in line]
    assert 6 <= len(gathers) <= 4 * 6
    assert not [shape for shape in gathers if re.search(r"\[5,", shape)]
    counts = [Counter(match[2] for match, line in found if "_layer_all" in line) for found in (few, many)]
    assert counts[0] == counts[1]
    assert not [line for match, line in many if "_layer_all" in line and re.search(r"\[(\d+,){3,}\d+\]", match[1])]
