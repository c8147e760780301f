"""Presets, conversion of configs to and from Hugging Face, initial parameters, and logical axes."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scotd_jax.errors import InputError
from scotd_jax.models.api import Precision
from scotd_jax.models.layers import logits
from scotd_jax.models.opt_config import OPTConfig
from scotd_jax.models.registry import PRESETS, build, config_for
from scotd_jax.models.relative_position import distance_bucket
from scotd_jax.models.t5_config import T5Config
from tests.helpers.exhaustive import repeat_for

pytestmark = pytest.mark.usefixtures("fast_compilation")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("opt-125m", 125_239_296),
        ("opt-350m", 331_196_416),
        ("opt-1.3b", 1_315_758_080),
        ("t5-small", 60_506_624),
        ("t5-base", 222_903_552),
        ("flan-t5-small", 76_961_152),
        ("flan-t5-base", 247_577_856),
    ],
)
def test_parameter_counts_match_the_published_models(name, count):
    assert sum(x.size for x in jax.tree.leaves(build(config_for(name)).abstract())) == count


@pytest.mark.parametrize("name", PRESETS)
def test_config_round_trips_through_hugging_face(name):
    values = PRESETS[name].to_hf()
    restored = type(PRESETS[name]).from_hf({**values, "torch_dtype": "float16", "dropout": 0.1})
    assert restored.to_hf() == values
    assert restored.cache_shape == PRESETS[name].cache_shape


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (OPTConfig, "activation_function", "gelu"),
        (OPTConfig, "enable_bias", False),
        (OPTConfig, "model_type", "llama"),
        (OPTConfig, "hidden_size", 100),
        (OPTConfig, "eos_token_id", "2"),
        (T5Config, "feed_forward_proj", "gated-silu"),
        (T5Config, "model_type", "mt5"),
    ],
)
def test_unsupported_architecture_is_refused(kind, key, value):
    with pytest.raises(InputError, match=f"{key}.*{value}"):
        kind.from_hf({**kind().to_hf(), key: value})


def test_final_norm_can_be_removed():
    config = OPTConfig.from_hf({**OPTConfig().to_hf(), "_remove_final_layer_norm": True})
    assert not config.final_norm
    assert config.to_hf()["_remove_final_layer_norm"]
    assert "final_norm" not in build(config).abstract()


def test_old_config_with_missing_fields_loads():
    """The config.json of t5-small has neither `feed_forward_proj` nor `tie_word_embeddings`."""
    config = T5Config.from_hf({"model_type": "t5", "d_model": 512, "decoder_start_token_id": 0})
    assert (config.gated, config.tie_word_embeddings, config.start_token) == (False, True, 0)


def test_overrides_replace_fields_of_a_preset():
    config = config_for("opt-350m", {"vocab_size": 99, "word_embed_proj_dim": 8, "init_std": 1})
    assert config == dataclasses.replace(PRESETS["opt-350m"], vocab_size=99, word_embed_proj_dim=8, init_std=1.0)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("opt-125", {}, "did you mean 'opt-125m'"),
        ("opt-125m", {"hiden_size": 8}, "did you mean 'hidden_size'"),
        ("opt-125m", {"hidden_size": "8"}, "overrides.hidden_size should be int, found '8'"),
        ("opt-125m", {"do_layer_norm_before": 1}, "should be bool, found 1"),
    ],
)
def test_unknown_names_are_refused_with_a_suggestion(name, overrides, message):
    with pytest.raises(InputError, match=message):
        config_for(name, overrides)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "opt-350m",
            {
                "embed/tokens": ("vocab", "embed"),
                "embed/positions": (None, "embed"),
                "layers/1/attn/q/kernel": ("embed", ("heads", 16)),
                "layers/1/attn/q/bias": (("heads", 16),),
                "layers/1/attn/o/kernel": (("heads", 16), "embed"),
                "layers/1/attn/o/bias": (None,),
                "layers/0/mlp/up/kernel": ("embed", "mlp"),
                "layers/0/mlp/up/bias": ("mlp",),
                "layers/0/mlp/down/kernel": ("mlp", "embed"),
                "layers/0/mlp_norm/scale": (None,),
                "project_in/kernel": (None, "embed"),
            },
        ),
        (
            "qwen2.5-0.5b",
            {
                "embed/tokens": ("vocab", "embed"),
                "layers/0/attn/q/kernel": ("embed", ("heads", 14)),
                "layers/0/attn/q/bias": (("heads", 14),),
                "layers/0/attn/k/kernel": ("embed", ("kv", 2)),
                "layers/0/attn/v/bias": (("kv", 2),),
                "layers/0/attn/o/kernel": (("heads", 14), "embed"),
                "layers/0/mlp/gate/kernel": ("embed", "mlp"),
                "layers/0/mlp/down/kernel": ("mlp", "embed"),
                "final_norm/scale": (None,),
            },
        ),
        (
            "flan-t5-small",
            {
                "lm_head/kernel": ("vocab", "embed"),
                "encoder/rel_bias": (None, ("heads", 6)),
                "decoder/layers/3/cross/v/kernel": ("embed", ("heads", 6)),
                "encoder/layers/3/mlp/wi_1/kernel": ("embed", "mlp"),
                "decoder/layers/3/mlp/wo/kernel": ("mlp", "embed"),
                "decoder/final_norm/scale": (None,),
            },
        ),
    ],
)
def test_parameters_have_logical_axes(name, expected):
    model = build(config_for(name))
    paths = jax.tree_util.tree_flatten_with_path(model.axes(), is_leaf=lambda x: isinstance(x, tuple))[0]
    axes = {"/".join(k.key for k in path): value for path, value in paths}
    assert expected.items() <= axes.items()
    shapes = jax.tree_util.tree_flatten_with_path(model.abstract())[0]
    assert {"/".join(k.key for k in path): x.ndim for path, x in shapes} == {k: len(v) for k, v in axes.items()}
    assert not [name for name in axes if re.search(r"norm|bias", name) and "embed" in axes[name]]


@pytest.mark.slow
@pytest.mark.parametrize("name", repeat_for(["opt-tiny", "t5-tiny", "flan", "decoder-tiny"], kept=("opt-tiny", "flan")))
def test_initial_logits_are_of_order_one(name):
    """Training then starts near the uniform distribution."""
    config = config_for("t5-tiny", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False})
    model = build(config if name == "flan" else config_for(name), Precision("float32"))
    params = model.init(jax.random.key(0))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 8)), jnp.int32)

    @jax.jit
    def scores(params):
        context = model.prefill(params, tokens, jnp.ones((4, 8), bool))
        return logits(model.extend(params, context, tokens[:, None])[0], model.unembedding(params), "float32")

    assert 0.1 < scores(params).std() < 2.0
    assert not jnp.array_equal(params["embed"]["tokens"], model.init(jax.random.key(1))["embed"]["tokens"])


def test_distance_buckets_match_hand_computed_values():
    distances = jnp.array([-1000, -128, -127, -16, -9, -8, -7, -1, 0, 1, 7, 8, 16, 1000])
    bidirectional = [15, 15, 15, 10, 8, 8, 7, 1, 0, 17, 23, 24, 26, 31]
    causal = [31, 31, 31, 16, 9, 8, 7, 1, 0, 0, 0, 0, 0, 0]
    assert distance_bucket(distances, True, 32, 128).tolist() == bidirectional
    assert distance_bucket(distances, False, 32, 128).tolist() == causal
